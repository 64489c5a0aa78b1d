"""Linear layer, then batch normalisation, GELU, ReLU."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    """[M, K] -> [M, N]"""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.batch_norm = nn.BatchNorm1d(out_features)

    def forward(self, x):
        return torch.relu(F.gelu(self.batch_norm(self.gemm(x))))


def get_init_inputs():
    return [4096, 4096]


def get_inputs():
    return [torch.rand(16384, 4096)]
