"""SiLU of one tensor times another."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """SiLU of one tensor times another."""

    def forward(self, gate, value):
        """See the class."""
        return F.silu(gate) * value


def get_inputs():
    """Inputs."""
    return [torch.randn(6, 40), torch.randn(6, 40)]


def get_init_inputs():
    """No arguments."""
    return []
