"""The methods that come with qbench, one file each, on the interface that any plugin uses.

This folder is installed as the package ``qbench_methods``.
"""
