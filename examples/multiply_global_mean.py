"""Transposed convolution, then a scale and the mean over the image, taken twice."""

import torch
import torch.nn as nn


class Model(nn.Module):
    """[N, Cin, H, W] -> [N, Cout, 1, 1]"""

    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, output_padding, multiplier):
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, output_padding=output_padding
        )
        self.multiplier = multiplier

    def forward(self, x):
        y = self.conv_transpose(x) * self.multiplier
        y = y.mean(dim=(2, 3), keepdim=True)
        return y.mean(dim=(2, 3), keepdim=True)


def get_init_inputs():
    return [64, 128, 3, 2, 1, 1, 0.5]


def get_inputs():
    return [torch.rand(16, 64, 128, 128)]
