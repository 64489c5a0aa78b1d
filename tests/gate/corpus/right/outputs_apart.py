"""Each output in memory of its own."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def scaled(p_x, p_out, total, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    tl.store(p_out + offset, tl.load(p_x + offset, mask=inside) * 3.0, mask=inside)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        scaled[(triton.cdiv(x.numel(), 128),)](x, out, x.numel(), BLOCK=128)
        return out, out.clone(), x.clone()
