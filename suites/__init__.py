"""The suites that come with qbench, and the published numbers that they show beside measured ones.

This folder is installed as the package ``qbench_suites``.
"""
