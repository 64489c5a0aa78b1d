"""Each element is stored at its rank."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, y_ptr, width, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    m = c < width
    x = tl.load(x_ptr + tl.program_id(0) * width + c, mask=m, other=float("inf"))
    nan = x != x
    key = tl.where(nan, float("inf"), x)
    before = key[None, :] < key[:, None]
    before = before or (key[None, :] == key[:, None] and nan[None, :] < nan[:, None])
    tie = key[None, :] == key[:, None] and nan[None, :] == nan[:, None] and c[None, :] < c[:, None]
    before = (before or tie) and m[None, :]
    rank = tl.sum(before.to(tl.int32), axis=1)
    tl.store(y_ptr + tl.program_id(0) * width + rank, x * 2.0, mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        width = x.shape[-1]
        kernel[(x.numel() // width,)](x, y, width, BLOCK=triton.next_power_of_2(width))
        return y
