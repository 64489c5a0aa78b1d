"""Kernels around a convolution of either kind."""
