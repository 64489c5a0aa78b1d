"""A grid derived from what the compiled kernel needs."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    start = tl.program_id(0) * BLOCK
    for first in tl.range(start, n, tl.num_programs(0) * BLOCK, num_stages=2):
        o = first + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + o, mask=o < n)
        tl.store(y_ptr + o, x * tl.sigmoid(2.0 * 0.7978845608028654 * (x + 0.044715 * x * x * x)), mask=o < n)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        compiled = kernel.warmup(x, y, n, BLOCK=256, num_warps=4, grid=(1,))
        compiled._init_handles()
        figures = torch.cuda.get_device_properties(x.device)
        resident = 65536 // (max(compiled.n_regs, 1) * 128)
        programs = min(triton.cdiv(n, 256), max(figures.multi_processor_count * resident, 1))
        kernel[(programs, 1, 1)](x, y, n, BLOCK=256, num_warps=4)
        return y
