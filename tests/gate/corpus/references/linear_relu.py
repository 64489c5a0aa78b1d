"""Linear layer, then ReLU."""

import torch
from torch import nn


class Model(nn.Module):
    """[M, K] -> [M, N]"""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, x):
        return torch.relu(self.linear(x))


def get_init_inputs():
    return [72, 40]


def get_inputs():
    return [torch.randn(20, 72)]
