"""PyTorch computes the error function, the kernel goes on from there."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def finished(p_x, p_bias, p_factor, p_out, total, features, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = tl.load(p_x + offset, mask=inside) + tl.load(p_bias + offset % features, mask=inside)
    tl.store(p_out + offset, 0.5 * value * (1.0 + tl.load(p_factor + offset, mask=inside)), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x.contiguous()
        factor = torch.erf((x + self.bias) * 0.7071067811865476)
        out = torch.empty_like(x)
        finished[(triton.cdiv(x.numel(), 128),)](x, self.bias, factor, out, x.numel(), self.bias.numel(), BLOCK=128)
        return out
