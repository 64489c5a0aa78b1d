"""Weights are taken to lie packed, also in a module in channels-last format."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def conv(p_x, p_w, p_bias, p_out, channels, height, width, features, BLOCK: tl.constexpr):
    image = tl.program_id(0) // features
    feature = tl.program_id(0) % features
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column = place // (width - 1), place % (width - 1)
    inside = row < height - 1
    total = tl.zeros((BLOCK,), tl.float32) + tl.load(p_bias + feature)
    for channel in range(channels):
        for tap in range(4):
            at = ((image * channels + channel) * height + row + tap // 2) * width + column + tap % 2
            x = tl.load(p_x + at, mask=inside, other=0.0)
            total += x * tl.load(p_w + (feature * channels + channel) * 4 + tap)
    out = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(p_out + tl.program_id(0) * (height - 1) * (width - 1) + place, out, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, channels, features):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, 2)

    def forward(self, x):
        x, weight = x.contiguous(), self.conv.weight
        images, channels, height, width = x.shape
        features = weight.shape[0]
        out = torch.empty((images, features, height - 1, width - 1), device=x.device, dtype=x.dtype)
        grid = (images * features, triton.cdiv((height - 1) * (width - 1), 256))
        conv[grid](x, weight, self.conv.bias, out, channels, height, width, features, BLOCK=256)
        return out
