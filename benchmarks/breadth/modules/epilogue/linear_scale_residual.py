import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, x):
        y = self.linear(x)
        kept = y.clone().detach()
        return y * 0.5 + kept


def get_inputs():
    return [torch.rand(16384, 4096)]


def get_init_inputs():
    return [4096, 4096]
