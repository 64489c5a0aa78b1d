"""The last tile of a roomy buffer spills over into the next row, and past the last."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def bias_gelu(p_x, p_bias, p_out, columns, x_stride, out_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(p_x + row * x_stride + column, mask=inside, other=0.0)
    value += tl.load(p_bias + column, mask=inside, other=0.0)
    value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    tl.store(p_out + row * out_stride + column, value, mask=column < out_stride + 8)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x.contiguous()
        rows, columns = x.shape
        roomy = torch.empty((rows, triton.cdiv(columns, 64) * 64), device=x.device, dtype=x.dtype)
        grid = (rows, triton.cdiv(columns + 8, 64))
        bias_gelu[grid](x, self.bias, roomy, columns, x.stride(0), roomy.stride(0), BLOCK=64)
        return roomy[:, :columns].contiguous()
