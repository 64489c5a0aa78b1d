"""Kernels of convolutions that a following reduction collapsed."""
