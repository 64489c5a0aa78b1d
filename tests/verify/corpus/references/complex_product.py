"""Product of complex numbers that are given as pairs."""

import torch
from torch import nn


class Model(nn.Module):
    """Product of complex numbers that are given as pairs."""

    def forward(self, a, b):
        """See the class."""
        real = a[..., 0] * b[..., 0] - a[..., 1] * b[..., 1]
        imaginary = a[..., 0] * b[..., 1] + a[..., 1] * b[..., 0]
        return torch.stack([real, imaginary], dim=-1)


def get_inputs():
    """Inputs."""
    return [torch.randn(6, 20, 2), torch.randn(6, 20, 2)]


def get_init_inputs():
    """No arguments."""
    return []
