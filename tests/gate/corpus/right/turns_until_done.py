"""Programs that stay, and turn until all is done."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def act(p_x, p_out, count, BLOCK: tl.constexpr):
    for turn in range(tl.cdiv(count, BLOCK * tl.num_programs(0))):
        place = (tl.program_id(0) + turn * tl.num_programs(0)) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(p_x + place, mask=place < count, other=0.0)
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(p_out + place, x * x, mask=place < count)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        programs = 4 * torch.cuda.get_device_properties(x.device).multi_processor_count
        count = x.numel()
        act[(min(triton.cdiv(count, 1024), programs),)](x, out, count, BLOCK=1024)
        return out
