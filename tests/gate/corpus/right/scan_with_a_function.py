"""An associative scan with a function of its own; NaN stays."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def kernel(x_ptr, y_ptr, width, BLOCK: tl.constexpr):
    o = tl.program_id(0) * width + tl.arange(0, BLOCK)
    m = tl.arange(0, BLOCK) < width
    x = tl.load(x_ptr + o, mask=m, other=float("-inf"))
    tl.store(y_ptr + o, tl.associative_scan(x, 0, larger) + x, mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        width = x.shape[-1]
        kernel[(x.numel() // width,)](x, y, width, BLOCK=triton.next_power_of_2(width))
        return y
