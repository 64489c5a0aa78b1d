"""Where the device refuses a launch for want of resources, a smaller tile is launched."""

import torch
import triton
import triton.language as tl
from torch import nn
from triton.runtime.errors import OutOfResources


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
        x = x.contiguous()
        out = torch.empty_like(x)
        for block in (512, 128, 32):
            try:
                bias_gelu[(triton.cdiv(x.numel(), block),)](
                    x, self.bias, out, x.numel(), self.bias.numel(), BLOCK=block
                )
                return out
            except OutOfResources:
                if block == 32:
                    raise
