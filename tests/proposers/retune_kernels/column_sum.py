import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def column_sum_kernel(x_ptr, out_ptr, rows, columns, stride_row, stride_column, BLOCK: tl.constexpr):
    """One column for each program: neighbours in memory are in different programs."""
    column = tl.program_id(0)
    if column >= columns:
        return
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, rows, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        mask = offsets < rows
        values = tl.load(x_ptr + offsets * stride_row + column * stride_column, mask=mask, other=0.0)
        total += values * 2.0
    tl.store(out_ptr + column, tl.sum(total, axis=0))


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        rows, columns = x.shape
        out = torch.empty(columns, device=x.device, dtype=torch.float32)
        column_sum_kernel[(columns,)](x, out, rows, columns, x.stride(0), x.stride(1), BLOCK=64)
        return out
