import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, target):
        return F.mse_loss(x, target)


def get_inputs():
    return [torch.randn(1024, 256), torch.randn(1024, 256)]


def get_init_inputs():
    return []
