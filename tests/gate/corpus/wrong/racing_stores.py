"""Two programs write the same element, one of them another value first."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def lowest(p_x, p_out, channels, width, offset, WIDTH: tl.constexpr):
    batch = tl.program_id(1)
    again = tl.program_id(2)
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    held = tl.minimum(column, width - 1)
    least = tl.load(p_x + batch * channels * width + held) + offset
    for channel in range(1, channels):
        x = tl.load(p_x + (batch * channels + channel) * width + held) + offset
        least = tl.where((x < least) | (x != x), x, least)
    tl.store(p_out + batch * width + column, least * again, mask=column < width)


class ModelNew(nn.Module):
    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, x):
        x = x.contiguous()
        batch, channels, width = x.shape
        out = torch.empty((batch, width), device=x.device, dtype=x.dtype)
        lowest[(triton.cdiv(width, 64), batch, 2)](x, out, channels, width, self.offset, WIDTH=64)
        return out
