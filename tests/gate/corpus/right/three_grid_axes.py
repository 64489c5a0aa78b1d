"""A grid of space, channels and batch; NaN carried through the clamp by name."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def clamp(p_x, p_scale, p_out, area, channels, low, high, BLOCK: tl.constexpr):
    channel = tl.program_id(1)
    start = (tl.program_id(2) * channels + channel) * area
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = point < area
    value = tl.load(p_x + start + point, mask=inside, other=0.0) * tl.load(p_scale + channel)
    clamped = tl.clamp(value, low, high, propagate_nan=tl.PropagateNan.ALL)
    tl.store(p_out + start + point, clamped, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, channels, low, high):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))
        self.low, self.high = low, high

    def forward(self, x):
        x = x.contiguous()
        batch, channels, height, width = x.shape
        out = torch.empty_like(x)
        grid = (triton.cdiv(height * width, 32), channels, batch)
        clamp[grid](x, self.scale, out, height * width, channels, self.low, self.high, BLOCK=32)
        return out
