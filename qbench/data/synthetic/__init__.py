"""Drawn images in the layout of well-known data sets."""
