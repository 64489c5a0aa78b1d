"""Times a number that is an argument of the forward pass, or its negative."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x, scale, negate):
        y = x * scale
        return -y if negate else y


def get_inputs():
    return [torch.randn(8, 100), 3.14, False]


def get_init_inputs():
    return []
