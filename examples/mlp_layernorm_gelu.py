"""A transformer's feed-forward block: layer normalisation, linear, GELU, linear, residual."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    """[B, T, D] -> [B, T, D]"""

    def __init__(self, width, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x)), approximate="tanh"))


def get_init_inputs():
    return [512, 2048]


def get_inputs():
    return [torch.randn(8, 256, 512)]
