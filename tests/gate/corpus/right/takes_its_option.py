"""Uses the slope that its constructor was given."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def leaky(x_ptr, y_ptr, slope, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n)
    tl.store(y_ptr + o, tl.where(x < 0, x * slope, x), mask=o < n)


class ModelNew(nn.Module):
    def __init__(self, slope=0.2):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        leaky[(triton.cdiv(n, 256),)](x, y, self.slope, n, BLOCK=256)
        return y
