"""Transposed convolution, then mish, add, hardtanh, scale."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    """[N, Cin, H, W] -> [N, Cout, Ho, Wo]"""

    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, output_padding, add_value, scale):
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, output_padding=output_padding
        )
        self.add_value = add_value
        self.scale = scale

    def forward(self, x):
        y = F.mish(self.conv_transpose(x))
        y = F.hardtanh(y + self.add_value, min_val=-1.0, max_val=1.0)
        return y * self.scale


def get_init_inputs():
    return [64, 64, 3, 2, 1, 1, 0.5, 2]


def get_inputs():
    return [torch.rand(128, 64, 128, 128)]
