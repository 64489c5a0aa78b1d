"""The second kernel updates in place what the first wrote into a buffer of their own."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def mish(p_x, p_out, total, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    x = tl.load(p_x + offset, mask=inside, other=0.0)
    small = tl.exp(tl.minimum(x, 20.0))
    power = small * (small + 2.0)
    tl.store(p_out + offset, tl.where(x > 20.0, x, x * power / (power + 2.0)), mask=inside)


@triton.jit
def subtract(p_out, p_y, total, weight, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = tl.load(p_out + offset, mask=inside, other=0.0)
    tl.store(p_out + offset, value - weight * tl.load(p_y + offset, mask=inside, other=0.0), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        grid = (triton.cdiv(x.numel(), 256),)
        mish[grid](x, out, x.numel(), BLOCK=256)
        subtract[grid](out, y, x.numel(), self.weight, BLOCK=256)
        return out
