"""The last of equal values, where torch.argmax takes the first."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def arg_max(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < n
    x = tl.load(x_ptr + row * n + column, mask=inside, other=float("-inf"))
    nan = (x != x) & inside
    largest = tl.max(tl.where(nan, float("-inf"), x), 0)
    any_nan = tl.max(nan.to(tl.int32), 0)
    found = tl.where(any_nan > 0, nan, (x == largest) & inside)
    tl.store(y_ptr + row, tl.max(tl.where(found, column, -1), 0).to(tl.int64))


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, n = x.shape
        y = torch.empty(rows, dtype=torch.int64, device=x.device)
        arg_max[(rows,)](x, y, n, BLOCK=triton.next_power_of_2(n))
        return y
