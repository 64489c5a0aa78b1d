"""Doubled values in bfloat16, and their mean squares in float32."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x):
        wide = x.float()
        return wide.mul(2.0).to(torch.bfloat16), wide.pow(2).mean(-1)


def get_inputs():
    return [torch.randn(8, 100, dtype=torch.bfloat16)]


def get_init_inputs():
    return []
