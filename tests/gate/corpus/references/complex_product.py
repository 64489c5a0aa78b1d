"""Product of complex numbers that are given as pairs."""

import torch
from torch import nn


class Model(nn.Module):
    """Product of complex numbers that are given as pairs."""

    def forward(self, a, b):
        """See the class."""
        (ar, ai), (br, bi) = a.unbind(-1), b.unbind(-1)
        real, imaginary = ar * br - ai * bi, ar * bi + ai * br
        return torch.stack([real, imaginary], dim=-1)


def get_inputs():
    """Inputs."""
    return [torch.randn(6, 20, 2), torch.randn(6, 20, 2)]


def get_init_inputs():
    """No arguments."""
    return []
