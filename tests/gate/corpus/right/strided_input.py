"""No copy of the input is made: its own strides are used."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def transpose(p_x, p_out, rows, columns, s_batch, s_row, s_column, scale, TILE: tl.constexpr):
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    inside = (row < rows) & (column < columns)
    tile = tl.load(p_x + batch * s_batch + row * s_row + column * s_column, mask=inside, other=0.0)
    tl.store(p_out + batch * rows * columns + column * rows + row, tile * scale, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        batch, rows, columns = x.shape
        out = torch.empty((batch, columns, rows), device=x.device, dtype=x.dtype)
        transpose[(triton.cdiv(rows, 32), triton.cdiv(columns, 32), batch)](
            x, out, rows, columns, x.stride(0), x.stride(1), x.stride(2), self.scale, TILE=32
        )
        return out
