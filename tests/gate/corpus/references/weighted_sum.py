"""The sum of each row, each element weighed."""

import torch
from torch import nn


class Model(nn.Module):
    """[M, N] -> [M]"""

    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        return (x * self.weight).sum(dim=1)


def get_init_inputs():
    return [150]


def get_inputs():
    return [torch.randn(6, 150)]
