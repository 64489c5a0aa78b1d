"""A loop over pieces of a row; block pointers; an early return."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, w_ptr, y_ptr, rows, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    if row >= rows:
        return
    source = tl.make_block_ptr(x_ptr, (rows, width), (width, 1), (row, 0), (1, BLOCK), (1, 0))
    total = tl.zeros((1, BLOCK), dtype=tl.float32)
    for _ in range(0, width, BLOCK):
        x = tl.load(source, boundary_check=(0, 1), padding_option="zero")
        total += x * x
        source = tl.advance(source, (0, BLOCK))
    scale = tl.rsqrt(tl.sum(total) / width + 1e-6)
    start = 0
    while start < width:
        o = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * width + o, mask=o < width)
        tl.store(y_ptr + row * width + o, x * scale * tl.load(w_ptr + o, mask=o < width), mask=o < width)
        start += BLOCK


class ModelNew(nn.Module):
    """See the file."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(48))

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        width = x.shape[-1]
        rows = x.numel() // width
        kernel[(triton.cdiv(rows, 4) * 4,)](x, self.weight, y, rows, width, BLOCK=32)
        return y
