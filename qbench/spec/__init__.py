"""Plain values: bit-widths, layer policies, recipes, trials, results. No module needs torch."""
