"""A scan of each block, with what came before carried along."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def running_sum(p_x, p_out, columns, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    before = 0.0
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(p_x + row * columns + column, mask=column < columns, other=0.0)
        tl.store(p_out + row * columns + column, (before + tl.cumsum(x, axis=0)) * scale, mask=column < columns)
        before += tl.sum(x, axis=0)


class ModelNew(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        running_sum[(x.shape[0],)](x, out, x.shape[1], self.scale, BLOCK=32)
        return out
