"""The second kernel takes a maximum with memory that the first has not written."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def positive_part(p_x, p_bias, p_raised, total, features, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = tl.load(p_x + offset, mask=inside) + tl.load(p_bias + offset % features, mask=inside)
    tl.store(p_raised + offset, value, mask=inside & (value > 0.0))


@triton.jit
def finish(p_x, p_bias, p_raised, p_out, total, features, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = tl.load(p_x + offset, mask=inside) + tl.load(p_bias + offset % features, mask=inside)
    raised = tl.maximum(tl.load(p_raised + offset, mask=inside), 0.0)
    value = tl.where(value == value, raised + tl.where(value > 0.0, 0.0, value), value)
    tl.store(p_out + offset, 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476)), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x.contiguous()
        raised = torch.empty_like(x)
        out = torch.empty_like(x)
        total, features = x.numel(), self.bias.numel()
        grid = (triton.cdiv(total, 128),)
        positive_part[grid](x, self.bias, raised, total, features, BLOCK=128)
        finish[grid](x, self.bias, raised, out, total, features, BLOCK=128)
        return out
