"""Kernels around a depthwise convolution."""
