"""Transposed convolution, then add, min with zero, GELU, multiply."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    """[N, Cin, H, W] -> [N, Cout, Ho, Wo]"""

    def __init__(self, in_channels, out_channels, kernel_size, stride, add_value, multiply_value):
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=stride)
        self.add_value = add_value
        self.multiply_value = multiply_value

    def forward(self, x):
        y = self.conv_transpose(x) + self.add_value
        y = torch.clamp(y, max=0.0)
        return F.gelu(y) * self.multiply_value


def get_init_inputs():
    return [64, 128, 4, 2, 0.5, 2.0]


def get_inputs():
    return [torch.rand(128, 64, 64, 64)]
