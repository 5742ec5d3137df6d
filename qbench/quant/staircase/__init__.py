"""The staircase of sigmoids of Quantization Networks and its C kernels."""
