"""Transposed convolution, then the minimum over channels, the sum over rows, GELU, and a bias."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    """[N, Cin, H, W] -> [N, 1, 1, Wo]"""

    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, output_padding, bias_shape):
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, output_padding=output_padding
        )
        self.bias = nn.Parameter(torch.randn(bias_shape))

    def forward(self, x):
        lowest = torch.min(self.conv_transpose(x), dim=1, keepdim=True).values
        total = lowest.sum(dim=2, keepdim=True)
        return F.gelu(total) + self.bias


def get_init_inputs():
    return [64, 128, 3, 2, 1, 1, (1, 1, 1)]


def get_inputs():
    return [torch.rand(16, 64, 128, 128)]
