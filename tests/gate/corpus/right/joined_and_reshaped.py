"""`tl.join` and a reshape."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    start = tl.program_id(0) * BLOCK
    o = start + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n)
    y = tl.load(y_ptr + o, mask=o < n)
    both = tl.reshape(tl.join(x, y * 3.0), (2 * BLOCK,))
    p = 2 * start + tl.arange(0, 2 * BLOCK)
    tl.store(out_ptr + p, both, mask=p < 2 * n)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x, y):
        """See the file."""
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype, device=x.device)
        n = x.numel()
        kernel[(triton.cdiv(n, 64),)](x, y, out, n, BLOCK=64)
        return out
