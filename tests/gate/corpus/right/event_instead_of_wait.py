"""Two streams; an event tells the caller's when the other is done."""

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
        x = x.contiguous()
        out = torch.empty_like(x)
        mine, done = torch.cuda.Stream(), torch.cuda.Event()
        mine.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(mine):
            bias_gelu[(triton.cdiv(x.numel(), 128),)](x, self.bias, out, x.numel(), self.bias.numel(), BLOCK=128)
            done.record()
        torch.cuda.current_stream().wait_event(done)
        return out
