"""A scaled input, the same again in memory of its own, and a copy of the input."""

import torch
from torch import nn


class Model(nn.Module):
    """[M, N] -> three times [M, N]"""

    def forward(self, x):
        scaled = x * 3.0
        return scaled, scaled.clone(), x.clone()


def get_init_inputs():
    return []


def get_inputs():
    return [torch.randn(12, 40)]
