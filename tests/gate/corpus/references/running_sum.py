"""The running sum of each row."""

import torch
from torch import nn


class Model(nn.Module):
    """[M, N] -> [M, N]"""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return torch.cumsum(x, dim=1) * self.scale


def get_init_inputs():
    return [0.5]


def get_inputs():
    return [torch.randn(6, 72)]
