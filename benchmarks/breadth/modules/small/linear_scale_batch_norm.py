import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.linear = nn.Linear(channels_in, channels_out)
        self.scale = nn.Parameter(torch.randn(channels_out))
        self.norm = nn.BatchNorm1d(channels_out)

    def forward(self, x):
        return self.norm(self.linear(x) * self.scale)


def get_inputs():
    return [torch.rand(128, 512)]


def get_init_inputs():
    return [512, 512]
