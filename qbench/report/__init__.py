"""Trials as rows, results over seeds, tables, figures and the page."""
