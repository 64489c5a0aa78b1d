"""Autotuned over three configurations, the grid from the chosen one."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.autotune(
    configs=[
        triton.Config({"BLOCK": 64}, num_warps=2, num_stages=2),
        triton.Config({"BLOCK": 128}, num_warps=4, num_stages=2),
        triton.Config({"BLOCK": 256}, num_warps=8, num_stages=3),
    ],
    key=["total"],
)
@triton.jit
def bias_gelu(p_x, p_bias, p_out, total, features, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = tl.load(p_x + offset, mask=inside, other=0.0) + tl.load(p_bias + offset % features, mask=inside, other=0.0)
    tl.store(p_out + offset, value * 0.5 * (1.0 + tl.erf(value * 0.7071067811865476)), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        bias_gelu[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](
            x, self.bias, out, x.numel(), self.bias.numel()
        )
        return out
