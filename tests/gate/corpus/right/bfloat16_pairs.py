"""Inline PTX on pairs of bfloat16 values."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x = tl.load(x_ptr + o, mask=m, other=0.0)
    w = x.to(tl.float32)
    low = tl.inline_asm_elementwise("mul.f32 $0, $1, 0f3C23D70A;", "=f,f", [w], dtype=tl.float32, is_pure=True, pack=1)
    narrow = tl.inline_asm_elementwise(
        "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [low], dtype=tl.bfloat16, is_pure=True, pack=2
    )
    y = tl.where(x > 0, x, narrow)
    tl.store(y_ptr + o, y, mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        kernel[(triton.cdiv(n, 256),)](x, y, n, BLOCK=256)
        return y
