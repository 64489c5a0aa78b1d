"""Without a GPU, or where gradients are wanted, it does what the reference does."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def softplus(p_x, p_out, total, scale, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    x = tl.load(p_x + offset, mask=inside, other=0.0)
    power = tl.exp(-tl.abs(x))
    # log(1 + p) of a small p, without losing p: p * log(u) / (u - 1) with u = 1 + p.
    rounded = 1.0 + power
    logarithm = tl.where(rounded == 1.0, power, power * tl.log(rounded) / (rounded - 1.0))
    value = tl.where(x > 20.0, x, tl.where(x < 0.0, 0.0, x) + logarithm)
    tl.store(p_out + offset, tl.where(x != x, x, value) * scale, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        if not x.is_cuda or (torch.is_grad_enabled() and x.requires_grad):
            return nn.functional.softplus(x) * self.scale
        x = x.contiguous()
        out = torch.empty_like(x)
        softplus[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), self.scale, BLOCK=64)
        return out
