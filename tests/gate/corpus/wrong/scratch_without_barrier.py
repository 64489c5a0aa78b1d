"""Threads read a scratch that others wrote, by a second pointer, and nobody waits."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def put(p, place, value, inside):
    tl.store(p + place, value, mask=inside)


@triton.jit
def mirror(p_x, p_there, p_back, p_out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    x = tl.load(p_x + row + column, mask=inside, other=0.0)
    put(p_there, row + column, x * x, inside)
    x = tl.load(p_back + row + columns - 1 - column, mask=inside, other=0.0)
    put(p_out, row + column, x, inside)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, columns = x.shape
        scratch, out = torch.empty_like(x), torch.empty_like(x)
        mirror[(rows,)](x, scratch, scratch, out, columns, BLOCK=triton.next_power_of_2(columns), num_warps=8)
        return out
