"""Drawn images in the layout of well-known datasets."""
