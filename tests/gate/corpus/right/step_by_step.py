"""A loop that carries the state of several rows."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(a_ptr, x_ptr, y_ptr, rows, length, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = r < rows
    state = tl.zeros([BLOCK], dtype=tl.float32)
    at = r * length
    for _ in range(length):
        decay = tl.sigmoid(tl.load(a_ptr + at, mask=m, other=0.0))
        state = decay * state + tl.load(x_ptr + at, mask=m, other=0.0)
        tl.store(y_ptr + at, state, mask=m)
        at += 1


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, a, x):
        """See the file."""
        a, x = a.contiguous(), x.contiguous()
        y = torch.empty_like(x)
        length = x.shape[-1]
        rows = x.numel() // length
        kernel[(triton.cdiv(rows, 16),)](a, x, y, rows, length, BLOCK=16)
        return y
