"""A kernel made in a function, with a constant of it."""

import torch
import triton
import triton.language as tl
from torch import nn


def make(root):
    """A kernel for a constant."""
    factor = tl.constexpr(root)

    @triton.jit
    def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
        o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + o, mask=o < n)
        tl.store(y_ptr + o, x * tl.sigmoid(2.0 * factor * (x + 0.044715 * x * x * x)), mask=o < n)

    return kernel


made = make(0.7978845608028654)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        made[(triton.cdiv(n, 256),)](x, y, n, BLOCK=256)
        return y
