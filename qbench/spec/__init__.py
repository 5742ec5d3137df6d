"""Plain values: bit-widths, recipes, trials, results. Imports no torch."""
