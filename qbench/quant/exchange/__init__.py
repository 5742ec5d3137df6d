"""Modules that compute the same as torch's and can be quantized inside.

Attention reads the weights of its projections without calling layers, and a transposed convolution
has its output channels on the second dimension of its weight. `qbench.quant.exchange.modules`
exchanges the class of such modules, in place. Their ``state_dict`` stays as it was.
"""
