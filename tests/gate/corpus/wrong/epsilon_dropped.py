"""Layer normalisation that divides by a variance of zero."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def layer_norm(p_x, p_weight, p_bias, p_out, columns, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    x = tl.load(p_x + row * columns + column, mask=inside, other=0.0)
    mean = tl.sum(x, axis=0) / columns
    apart = tl.where(inside, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(apart * apart, axis=0) / columns)
    weight = tl.load(p_weight + column, mask=inside, other=0.0)
    bias = tl.load(p_bias + column, mask=inside, other=0.0)
    tl.store(p_out + row * columns + column, apart * scale * weight + bias, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.norm = nn.LayerNorm(features)

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        columns = x.shape[1]
        block = triton.next_power_of_2(columns)
        layer_norm[(x.shape[0],)](
            x, self.norm.weight, self.norm.bias, out, columns, self.norm.eps, BLOCK=block, num_warps=2
        )
        return out
