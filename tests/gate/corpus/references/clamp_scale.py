"""A scale for each channel, then a clamp on both sides."""

import torch
from torch import nn


class Model(nn.Module):
    """[N, C, H, W] -> [N, C, H, W]"""

    def __init__(self, channels, low, high):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))
        self.low = low
        self.high = high

    def forward(self, x):
        return torch.clamp(x * self.scale, self.low, self.high)


def get_init_inputs():
    return [5, -1.0, 1.5]


def get_inputs():
    return [torch.randn(3, 5, 7, 6)]
