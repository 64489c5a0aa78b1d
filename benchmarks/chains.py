# ruff: noqa: D102
"""The five op chains of the workloads, with every hyperparameter of their anchors open."""

import torch
import torch.nn.functional as F
from torch import nn


class AddMinGeluMultiply(nn.Module):
    """[N, Cin, H, W] -> [N, Cout, Ho, Wo]"""

    def __init__(self, channels_in, channels_out, kernel, stride, padding, output_padding, groups, dilation):
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            channels_in, channels_out, kernel, stride, padding, output_padding, groups=groups, dilation=dilation
        )
        self.add_value = 0.5
        self.multiply_value = 2.0

    def forward(self, x):
        y = torch.clamp(self.conv(x) + self.add_value, max=0.0)
        return F.gelu(y) * self.multiply_value


class MinSumGeluBias(nn.Module):
    """[N, Cin, H, W] -> [N, 1, 1, Wo]"""

    def __init__(self, channels_in, channels_out, kernel, stride, padding, output_padding, groups, dilation):
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            channels_in, channels_out, kernel, stride, padding, output_padding, groups=groups, dilation=dilation
        )
        self.bias = nn.Parameter(torch.randn(1, 1, 1))

    def forward(self, x):
        y = torch.min(self.conv(x), dim=1, keepdim=True)[0]
        return F.gelu(torch.sum(y, dim=2, keepdim=True)) + self.bias


class MishAddHardtanhScale(nn.Module):
    """[N, Cin, H, W] -> [N, Cout, Ho, Wo]"""

    def __init__(self, channels_in, channels_out, kernel, stride, padding, output_padding, groups, dilation):
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            channels_in, channels_out, kernel, stride, padding, output_padding, groups=groups, dilation=dilation
        )
        self.add_value = 0.5
        self.scale = 2.0

    def forward(self, x):
        return F.hardtanh(F.mish(self.conv(x)) + self.add_value, -1.0, 1.0) * self.scale


class MultiplyGlobalMean(nn.Module):
    """[N, Cin, H, W] -> [N, Cout, 1, 1]"""

    def __init__(self, channels_in, channels_out, kernel, stride, padding, output_padding, groups, dilation):
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            channels_in, channels_out, kernel, stride, padding, output_padding, groups=groups, dilation=dilation
        )
        self.multiplier = 0.5

    def forward(self, x):
        y = (self.conv(x) * self.multiplier).mean(dim=(2, 3), keepdim=True)
        return y.mean(dim=(2, 3), keepdim=True)


class LinearNormGeluRelu(nn.Module):
    """[M, K] -> [M, N]"""

    def __init__(self, features_in, features_out):
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)
        self.norm = nn.BatchNorm1d(features_out)

    def forward(self, x):
        return torch.relu(F.gelu(self.norm(self.linear(x))))
