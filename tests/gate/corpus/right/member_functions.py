"""Functions of the language as methods of a tensor."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x = tl.load(x_ptr + o, mask=m, other=0.0)
    y = x * (2.0 * (0.7978845608028654 * (x + 0.044715 * x * x * x))).sigmoid()
    tl.store(y_ptr + o, y, mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        kernel[(triton.cdiv(n, 256),)](x, y, n, BLOCK=256)
        return y
