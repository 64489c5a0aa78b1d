"""The variance as mean of squares less square of mean, which cancels."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def moments(p_x, p_mean, p_variance, columns, UNBIASED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        total += tl.load(p_x + row * columns + start + column, mask=start + column < columns, other=0.0)
    mean = tl.sum(total, axis=0) / columns
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        inside = start + column < columns
        apart = tl.load(p_x + row * columns + start + column, mask=inside, other=0.0) - mean
        squares += tl.where(inside, (apart + mean) * (apart + mean) - mean * mean, 0.0)
    count = columns.to(tl.float32)
    if UNBIASED:
        count = count - 1.0
    tl.store(p_mean + row, mean)
    tl.store(p_variance + row, tl.sum(squares, axis=0) / count)


class ModelNew(nn.Module):
    def __init__(self, correction):
        super().__init__()
        self.correction = correction

    def forward(self, x):
        x = x.contiguous()
        mean = torch.empty(x.shape[0], device=x.device, dtype=x.dtype)
        variance = torch.empty_like(mean)
        moments[(x.shape[0],)](x, mean, variance, x.shape[1], UNBIASED=self.correction == 1, BLOCK=64)
        return mean, variance
