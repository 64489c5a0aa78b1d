"""A workspace is kept between calls, and zeroed at each."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def add_part(p_x, p_weight, p_total, features, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < features
    x = tl.load(p_x + row * features + column, mask=inside, other=0.0)
    weight = tl.load(p_weight + column, mask=inside, other=0.0)
    tl.atomic_add(p_total + row, tl.sum(x * weight, axis=0))


@triton.jit
def copy_out(p_total, p_out, rows, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_out + row, tl.load(p_total + row, mask=row < rows, other=0.0), mask=row < rows)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))
        self._workspace = None

    def forward(self, x):
        x = x.contiguous()
        rows, features = x.shape
        if self._workspace is None or self._workspace.numel() < rows or self._workspace.device != x.device:
            self._workspace = torch.empty(rows, device=x.device, dtype=torch.float32)
        self._workspace.zero_()
        out = torch.empty(rows, device=x.device, dtype=x.dtype)
        add_part[(rows, triton.cdiv(features, 128))](x, self.weight, self._workspace, features, BLOCK=128)
        copy_out[(triton.cdiv(rows, 64),)](self._workspace, out, rows, BLOCK=64)
        return out
