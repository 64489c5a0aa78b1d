import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, 5, padding=2)
        self.scale = nn.Parameter(torch.randn(channels_out, 1))

    def forward(self, x):
        y = self.conv(x)
        return y * torch.sigmoid(y) * self.scale


def get_inputs():
    return [torch.randn(16, 16, 512)]


def get_init_inputs():
    return [16, 32]
