"""Kernels around a matrix product."""
