"""Kernels around pooling."""
