"""Constants of the file, and flags that are not."""

import torch
import triton
import triton.language as tl
from torch import nn

ROOT = tl.constexpr(0.7978845608028654)
CUBE = tl.constexpr(0.044715)
SCALE = tl.constexpr(1)


@triton.jit
def kernel(x_ptr, y_ptr, n, flag, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x = tl.load(x_ptr + o, mask=m, other=0.0)
    inner = ROOT * (x + CUBE * x * x * x)
    y = x * tl.sigmoid(2.0 * inner)
    if flag:
        y = y * SCALE
    tl.store(y_ptr + o, y, mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        kernel[(triton.cdiv(n, 256),)](x, y, n, True, BLOCK=256)
        return y
