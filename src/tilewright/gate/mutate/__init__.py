"""Semantic mutants of right kernels: what the gate must reject, made by the hundred."""
