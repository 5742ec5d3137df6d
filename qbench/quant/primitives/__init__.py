"""The functions that quantizers are made of, with their gradients: see `qbench.functional`."""
