"""Each row is split among programs, which store their parts for a second kernel."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def sum_parts(p_x, p_weight, p_part, features, parts, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    part = tl.program_id(1)
    column = part * BLOCK + tl.arange(0, BLOCK)
    inside = column < features
    x = tl.load(p_x + row * features + column, mask=inside, other=0.0)
    weight = tl.load(p_weight + column, mask=inside, other=0.0)
    tl.store(p_part + row * parts + part, tl.sum(x * weight, axis=0))


@triton.jit
def sum_rows(p_part, p_out, parts, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    part = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, parts, BLOCK):
        inside = start + part < parts
        total += tl.load(p_part + row * parts + start + part, mask=inside, other=0.0)
    tl.store(p_out + row, tl.sum(total, axis=0))


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x.contiguous()
        rows, features = x.shape
        parts = triton.cdiv(features, 32)
        scratch = torch.empty((rows, parts), device=x.device, dtype=torch.float32)
        out = torch.empty(rows, device=x.device, dtype=x.dtype)
        sum_parts[(rows, parts)](x, self.weight, scratch, features, parts, BLOCK=32)
        sum_rows[(rows,)](scratch, out, parts, BLOCK=16)
        return out
