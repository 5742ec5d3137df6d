"""Deployment: hardened networks as files for other programs, with proof that they are the same."""
