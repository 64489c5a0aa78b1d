"""A first kernel raises a flag for large values, and a second one takes another way where it is up."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def find_large(p_x, p_bias, p_flag, total, features, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = tl.load(p_x + offset, mask=inside, other=0.0) + tl.load(p_bias + offset % features, mask=inside, other=0.0)
    large = tl.max(tl.where(tl.abs(value) > 100.0, 1, 0), axis=0)
    tl.atomic_max(p_flag, large, mask=large > 0)


@triton.jit
def bias_gelu(p_x, p_bias, p_flag, p_out, total, features, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = tl.load(p_x + offset, mask=inside) + tl.load(p_bias + offset % features, mask=inside)
    result = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    if tl.load(p_flag) > 0:
        # Far from zero the error function is a sign, and the value is itself or (minus) zero.
        result = tl.where(value > 100.0, value, tl.where(value < -100.0, value * 0.0, result))
    tl.store(p_out + offset, result, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        flag = torch.zeros(1, device=x.device, dtype=torch.int32)
        total, features = x.numel(), self.bias.numel()
        grid = (triton.cdiv(total, 128),)
        find_large[grid](x, self.bias, flag, total, features, BLOCK=128)
        bias_gelu[grid](x, self.bias, flag, out, total, features, BLOCK=128)
        return out
