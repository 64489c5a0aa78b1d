"""Half precision in and out, single precision between."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def silu(p_x, p_out, total, scale, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    x = tl.load(p_x + offset, mask=inside, other=0.0).to(tl.float32)
    y = (x / (1.0 + tl.exp(-x))).to(tl.float16)
    tl.store(p_out + offset, (y.to(tl.float32) * scale).to(p_out.dtype.element_ty), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        silu[(triton.cdiv(x.numel(), 128),)](x, out, x.numel(), self.scale, BLOCK=128)
        return out
