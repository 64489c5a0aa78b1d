"""As many programs, along grid axis 0."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def silu(p_x, p_out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(p_x + row * columns + column, mask=column < columns, other=0.0)
    tl.store(p_out + row * columns + column, x / (1.0 + tl.exp(-x)), mask=column < columns)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        rows, columns = x.shape
        silu[(rows, triton.cdiv(columns, 64))](x, out, columns, BLOCK=64)
        return out
