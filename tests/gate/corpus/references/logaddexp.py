"""Special functions of two tensors, summed."""

import torch
from torch import nn


class Model(nn.Module):
    """Special functions of two tensors, summed."""

    def forward(self, x, y):
        """See the class."""
        return torch.log1p(x * x) + torch.expm1(-y * y) + torch.erf(x - y) + torch.atan2(x, y * y + 1.0)


def get_inputs():
    """Inputs."""
    return [torch.randn(6, 50), torch.randn(6, 50)]


def get_init_inputs():
    """No arguments."""
    return []
