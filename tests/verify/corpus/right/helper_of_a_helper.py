"""Helpers of helpers, one of them a constant argument."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def gated(gate, value, activation: tl.constexpr):
    return activation(gate) * value


@triton.jit
def kernel(x_ptr, y_ptr, half, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    o = tl.arange(0, BLOCK)
    m = o < half
    gate = tl.load(x_ptr + row * 2 * half + o, mask=m, other=0.0)
    value = tl.load(x_ptr + row * 2 * half + half + o, mask=m, other=0.0)
    tl.store(y_ptr + row * half + o, gated(gate, value, silu), mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        half = x.shape[-1] // 2
        y = torch.empty((*x.shape[:-1], half), dtype=x.dtype, device=x.device)
        kernel[(y.numel() // half,)](x, y, half, BLOCK=triton.next_power_of_2(half))
        return y
