"""Addresses that come from data: rows of a table."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def sum_rows(p_index, p_table, p_out, length, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for step in range(length):
        index = tl.load(p_index + row * length + step)
        total += tl.load(p_table + index * width + lane, mask=lane < width, other=0.0)
    tl.store(p_out + row * width + lane, total, mask=lane < width)


class ModelNew(nn.Module):
    def __init__(self, rows, width):
        super().__init__()
        self.table = nn.Embedding(rows, width)

    def forward(self, indices):
        indices = indices.contiguous()
        rows, width = indices.shape[0], self.table.weight.shape[1]
        out = torch.empty((rows, width), device=indices.device, dtype=self.table.weight.dtype)
        sum_rows[(rows, triton.cdiv(width, 32))](indices, self.table.weight, out, indices.shape[1], width, BLOCK=32)
        return out
