"""A leaky ReLU whose slope is an option of the constructor."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, slope=0.2):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return nn.functional.leaky_relu(x, self.slope)


def get_inputs():
    return [torch.randn(8, 100)]


def get_init_inputs():
    return []
