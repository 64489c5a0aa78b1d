"""An associative scan over pairs."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def compose(decay, state, next_decay, value):
    return decay * next_decay, state * next_decay + value


@triton.jit
def kernel(a_ptr, x_ptr, y_ptr, length, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    o = tl.arange(0, BLOCK)
    m = o < length
    decay = tl.sigmoid(tl.load(a_ptr + row * length + o, mask=m, other=0.0))
    x = tl.load(x_ptr + row * length + o, mask=m, other=0.0)
    _, states = tl.associative_scan((decay, x), 0, compose)
    tl.store(y_ptr + row * length + o, states, mask=m)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, a, x):
        """See the file."""
        a, x = a.contiguous(), x.contiguous()
        y = torch.empty_like(x)
        length = x.shape[-1]
        kernel[(x.numel() // length,)](a, x, y, length, BLOCK=triton.next_power_of_2(length))
        return y
