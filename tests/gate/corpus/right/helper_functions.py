"""Helpers that are compiled into the kernel."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _tanh_of_positive(x):
    folded = tl.exp(-2.0 * x)
    return (1.0 - folded) / (1.0 + folded)


@triton.jit
def _mish(x):
    small = tl.exp(tl.minimum(x, 0.0))
    power = small * (small + 2.0)
    return tl.where(x < 0.0, x * power / (power + 2.0), x * _tanh_of_positive(_softplus(x)))


@triton.jit
def mish_residual(p_x, p_y, p_out, total, weight, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = _mish(tl.load(p_x + offset, mask=inside, other=0.0))
    tl.store(p_out + offset, value - weight * tl.load(p_y + offset, mask=inside, other=0.0), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        mish_residual[(triton.cdiv(x.numel(), 64),)](x, y, out, x.numel(), self.weight, BLOCK=64)
        return out
