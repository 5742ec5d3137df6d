"""Figures in one style, as pure functions of what they draw."""
