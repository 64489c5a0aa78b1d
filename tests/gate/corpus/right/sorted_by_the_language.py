"""`tl.sort`, with infinity behind the row, and NaN last."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, y_ptr, width, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    o = tl.program_id(0) * width + c
    m = c < width
    x = tl.load(x_ptr + o, mask=m, other=float("inf"))
    nan = x != x
    count = tl.sum(nan.to(tl.int32), axis=0)
    ordered = tl.sort(tl.where(nan, float("inf"), x)) * 2.0
    tl.store(y_ptr + o, tl.where(c >= width - count, float("nan"), ordered), mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        width = x.shape[-1]
        kernel[(x.numel() // width,)](x, y, width, BLOCK=triton.next_power_of_2(width))
        return y
