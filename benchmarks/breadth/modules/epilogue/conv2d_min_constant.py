import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3)
        self.bias = nn.Parameter(torch.randn(channels_out, 1, 1))

    def forward(self, x):
        y = torch.min(self.conv(x), torch.tensor(0.5, device=x.device))
        return (y + self.bias) * 2.0


def get_inputs():
    return [torch.rand(64, 64, 128, 128)]


def get_init_inputs():
    return [64, 128]
