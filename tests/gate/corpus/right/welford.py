"""Mean and variance of chunks, combined pair by pair."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def _combine(mean_a, squares_a, count_a, mean_b, squares_b, count_b):
    count = count_a + count_b
    share = tl.where(count > 0.0, count_b / tl.maximum(count, 1.0), 0.0)
    apart = mean_b - mean_a
    return mean_a + apart * share, squares_a + squares_b + apart * apart * count_a * share, count


@triton.jit
def layer_norm(p_x, p_weight, p_bias, p_out, columns, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    mean = tl.zeros([BLOCK], dtype=tl.float32)
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    count = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        inside = start + column < columns
        x = tl.load(p_x + row * columns + start + column, mask=inside, other=0.0)
        more = tl.where(inside, count + 1.0, count)
        apart = tl.where(inside, x - mean, 0.0)
        mean += apart / tl.maximum(more, 1.0)
        squares += apart * tl.where(inside, x - mean, 0.0)
        count = more
    mean, squares, count = tl.reduce((mean, squares, count), 0, _combine)
    scale = 1.0 / tl.sqrt(squares / count + epsilon)
    for start in range(0, columns, BLOCK):
        inside = start + column < columns
        x = tl.load(p_x + row * columns + start + column, mask=inside, other=0.0)
        weight = tl.load(p_weight + start + column, mask=inside, other=0.0)
        bias = tl.load(p_bias + start + column, mask=inside, other=0.0)
        tl.store(p_out + row * columns + start + column, (x - mean) * scale * weight + bias, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.norm = nn.LayerNorm(features)

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        layer_norm[(x.shape[0],)](x, self.norm.weight, self.norm.bias, out, x.shape[1], self.norm.eps, BLOCK=16)
        return out
