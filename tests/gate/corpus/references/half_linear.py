"""A linear layer in half precision and a ReLU."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """A linear layer in half precision and a ReLU."""

    def forward(self, x, w):
        """See the class."""
        return F.relu(x @ w)


def get_inputs():
    """Inputs."""
    return [torch.randn(24, 32).half(), torch.randn(32, 40).half()]


def get_init_inputs():
    """No arguments."""
    return []
