"""Sets a flag of the whole process for a product, and puts it back."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def bias_gelu(p_x, p_bias, p_out, total, features, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    value = tl.load(p_x + offset, mask=inside) + tl.load(p_bias + offset % features, mask=inside)
    tl.store(p_out + offset, 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476)), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            shift = torch.eye(self.bias.numel(), device=x.device) @ self.bias
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        x = x.contiguous()
        out = torch.empty_like(x)
        bias_gelu[(triton.cdiv(x.numel(), 128),)](x, shift, out, x.numel(), shift.numel(), BLOCK=128)
        return out
