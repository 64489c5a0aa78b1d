import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.norm = nn.GroupNorm(512, out)
        self.bias = nn.Parameter(torch.randn(1, out, 1, 1))

    def forward(self, x):
        y = self.norm(self.linear(x))
        return torch.min(y, dim=1, keepdim=True)[0] + self.bias


def get_inputs():
    return [torch.rand(1024, 8192)]


def get_init_inputs():
    return [8192, 8192]
