"""A persistent loop over rows, with a run-time epsilon."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, w_ptr, y_ptr, rows, width, epsilon, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    m = o < width
    w = tl.load(w_ptr + o, mask=m, other=0.0)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=2):
        x = tl.load(x_ptr + row.to(tl.int64) * width + o, mask=m, other=0.0)
        scale = tl.math.rsqrt(tl.sum(x * x, axis=0) / width + epsilon)
        tl.store(y_ptr + row.to(tl.int64) * width + o, x * scale * w, mask=m)


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
        kernel[(min(rows, 3),)](x, self.weight, y, rows, width, 1e-6, BLOCK=triton.next_power_of_2(width))
        return y
