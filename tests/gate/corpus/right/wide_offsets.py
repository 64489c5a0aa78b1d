"""Offsets of 64 bits, with hints on contiguity."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def bias_gelu(p_x, p_bias, p_out, total, features, BLOCK: tl.constexpr):
    start = tl.multiple_of(tl.program_id(0).to(tl.int64) * BLOCK, BLOCK)
    offset = tl.max_contiguous(start + tl.arange(0, BLOCK).to(tl.int64), BLOCK)
    inside = offset < total
    value = tl.load(p_x + offset, mask=inside, other=0.0, eviction_policy="evict_first")
    value += tl.load(p_bias + offset % features, mask=inside, other=0.0, eviction_policy="evict_last")
    tl.store(p_out + offset, 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476)), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        bias_gelu[(triton.cdiv(x.numel(), 256), 1, 1)](x, self.bias, out, x.numel(), self.bias.numel(), BLOCK=256)
        return out
