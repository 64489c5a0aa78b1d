"""Uses the number and the flag that it is given."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def scaled(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n)
    tl.store(y_ptr + o, x * scale, mask=o < n)


class ModelNew(nn.Module):
    def forward(self, x, scale, negate):
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        scaled[(triton.cdiv(n, 256),)](x, y, -scale if negate else scale, n, BLOCK=256)
        return y
