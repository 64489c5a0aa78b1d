"""Running statistics folded into a scale and a shift, afresh at every call."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def scale_shift(p_x, p_scale, p_shift, p_out, total, area, channels, slope, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    channel = offset // area % channels
    value = tl.load(p_x + offset, mask=inside, other=0.0) * tl.load(p_scale + channel, mask=inside, other=0.0)
    value += tl.load(p_shift + channel, mask=inside, other=0.0)
    tl.store(p_out + offset, tl.where(value > 0.0, value, value * slope), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, channels, slope):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.slope = slope

    def forward(self, x):
        x = x.contiguous()
        scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        shift = self.norm.bias - self.norm.running_mean * scale
        out = torch.empty_like(x)
        area = x.shape[2] * x.shape[3]
        grid = (triton.cdiv(x.numel(), 128),)
        scale_shift[grid](x, scale, shift, out, x.numel(), area, x.shape[1], self.slope, BLOCK=128)
        return out
