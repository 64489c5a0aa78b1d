"""`triton.jit` called as a function."""

import torch
import triton
import triton.language as tl
from torch import nn


def body(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n)
    tl.store(y_ptr + o, x * tl.sigmoid(2.0 * 0.7978845608028654 * (x + 0.044715 * x * x * x)), mask=o < n)


kernel = triton.jit(body)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        kernel[(triton.cdiv(n, 256),)](x, y, n, BLOCK=256)
        return y
