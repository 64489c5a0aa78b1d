"""Dimensions of size one are dropped."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def mean(p_x, p_scale, p_out, channels, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    plane = tl.program_id(0)
    total = 0.0
    for top in range(0, height, ROWS):
        for left in range(0, width, COLUMNS):
            row = top + tl.arange(0, ROWS)
            column = left + tl.arange(0, COLUMNS)
            inside = (row < height)[:, None] & (column < width)[None, :]
            place = (plane * height + row)[:, None] * width + column[None, :]
            tile = tl.load(p_x + place, mask=inside, other=0.0)
            total += tl.sum(tl.sum(tile, axis=1), axis=0)
    tl.store(p_out + plane, total * tl.load(p_scale + plane % channels) / (height * width))


class ModelNew(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x):
        x = x.contiguous()
        batch, channels, height, width = x.shape
        out = torch.empty((batch, channels, 1, 1), device=x.device, dtype=x.dtype)
        mean[(batch * channels,)](x, self.scale, out, channels, height, width, ROWS=4, COLUMNS=16)
        return out[:, :, 0, 0]
