"""Casts of run-time scalars and of loop variables."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, y_ptr, n, scale, steps, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x = tl.load(x_ptr + o, mask=m, other=0.0)
    factor = scale.to(tl.float32)
    y = tl.zeros_like(x)
    for k in range(0, steps):
        y += x * tl.sigmoid(2.0 * 0.7978845608028654 * (x + 0.044715 * x * x * x)) * factor + k.to(tl.float32) * 0.0
    at = n.to(tl.int64) * 0 + o
    y = tl.where(at < n, y, 0.0)
    tl.store(y_ptr + o, y, mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        kernel[(triton.cdiv(n, 256),)](x, y, n, 0.5, 2, BLOCK=256)
        return y
