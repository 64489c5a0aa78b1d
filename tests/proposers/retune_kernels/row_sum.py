import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def row_sum_kernel(x_ptr, out_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = 0.0
    for i in range(0, tl.cdiv(columns, BLOCK)):
        offsets = i * BLOCK + tl.arange(0, BLOCK)
        values = tl.load(x_ptr + row * columns + offsets, mask=offsets < columns, other=0.0)
        total += tl.sum(values, axis=0)
    tl.store(out_ptr + row, total)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        assert x.is_cuda
        assert x.is_contiguous()
        rows, columns = x.shape
        out = torch.empty(rows, device=x.device, dtype=torch.float32)
        BLOCK = min(triton.next_power_of_2(columns), 128)
        row_sum_kernel[(rows,)](x, out, columns, BLOCK=BLOCK, num_warps=1)
        return out
