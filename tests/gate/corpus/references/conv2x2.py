"""A convolution whose weights have another order in channels-last format."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels, features):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, 2)

    def forward(self, x):
        return torch.relu(self.conv(x))


def get_init_inputs():
    return [2, 3]


def get_inputs():
    return [torch.randn(2, 2, 9, 9)]
