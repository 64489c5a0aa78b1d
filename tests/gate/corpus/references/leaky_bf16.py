"""Leaky ReLU of bfloat16 values."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """Leaky ReLU of bfloat16 values."""

    def forward(self, x):
        """See the class."""
        return F.leaky_relu(x, 0.01)


def get_inputs():
    """Inputs."""
    return [torch.randn(8, 200, dtype=torch.bfloat16)]


def get_init_inputs():
    """No arguments."""
    return []
