"""Kernels without an anchor: pointwise chains and nested reductions."""
