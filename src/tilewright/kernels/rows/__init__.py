"""Kernels that reduce rows and use the results on the rows' own elements again."""
