"""Reads rows at positions, which shrink with the table."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def picked(table_ptr, positions_ptr, y_ptr, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    position = tl.load(positions_ptr + row)
    column = tl.arange(0, BLOCK)
    values = tl.load(table_ptr + position * n + column, mask=column < n)
    tl.store(y_ptr + row * n + column, values * 2.0, mask=column < n)


class ModelNew(nn.Module):
    def forward(self, table, positions):
        table, positions = table.contiguous(), positions.contiguous()
        n = table.shape[1]
        y = torch.empty((positions.numel(), n), dtype=table.dtype, device=table.device)
        picked[(positions.numel(),)](table, positions, y, n, BLOCK=triton.next_power_of_2(n))
        return y
