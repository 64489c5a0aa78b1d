"""A bfloat16 and a float32 output, each as exact as its type."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def doubled(x_ptr, y_ptr, s_ptr, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < n
    x = tl.load(x_ptr + row * n + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * n + column, (x * 2.0).to(tl.bfloat16), mask=inside)
    tl.store(s_ptr + row, tl.sum(x * x, 0) / n)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, n = x.shape
        y = torch.empty_like(x)
        s = torch.empty(rows, dtype=torch.float32, device=x.device)
        doubled[(rows,)](x, y, s, n, BLOCK=triton.next_power_of_2(n))
        return y, s
