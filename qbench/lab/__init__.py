"""Tools for authors of methods: the contract check, the profile, the scaffold."""
