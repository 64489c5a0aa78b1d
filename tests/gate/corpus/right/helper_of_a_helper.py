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
def kernel(gate_ptr, value_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_ptr + o, mask=o < n, other=0.0)
    value = tl.load(value_ptr + o, mask=o < n, other=0.0)
    tl.store(y_ptr + o, gated(gate, value, silu), mask=o < n)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, gate, value):
        """See the file."""
        gate, value = gate.contiguous(), value.contiguous()
        y = torch.empty_like(gate)
        n = y.numel()
        kernel[(triton.cdiv(n, 128),)](gate, value, y, n, BLOCK=128)
        return y
