"""Figures in one style. The functions that draw them are pure: equal input gives equal bytes."""
