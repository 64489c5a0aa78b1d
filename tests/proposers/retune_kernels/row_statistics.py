import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def row_statistics_kernel(x_ptr, out_ptr, rows, columns, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr):
    """Sum, largest and smallest value of each row."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    total = tl.zeros((BLOCK_R,), dtype=tl.float32)
    largest = tl.full((BLOCK_R,), float("-inf"), dtype=tl.float32)
    smallest = tl.full((BLOCK_R,), float("inf"), dtype=tl.float32)

    # A tile of every row at a time.
    for start in range(0, columns, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        inside = (row[:, None] < rows) & (offsets[None, :] < columns)
        values = tl.load(x_ptr + row[:, None] * columns + offsets[None, :], mask=inside, other=0.0)
        total = total + tl.sum(values, axis=1)
        highest = tl.max(tl.where(inside, values, float("-inf")), axis=1)
        largest = tl.maximum(largest, highest)  # so far
        smallest = tl.minimum(tl.min(tl.where(inside, values, float("inf")), 1), smallest)

    tl.store(out_ptr + row * 3, total, mask=row < rows)
    tl.store(out_ptr + row * 3 + 1, largest, mask=row < rows)
    tl.store(out_ptr + row * 3 + 2, smallest, mask=row < rows)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.contiguous()
        rows, columns = x.shape
        out = torch.empty((rows, 3), device=x.device, dtype=torch.float32)
        row_statistics_kernel[(triton.cdiv(rows, 4),)](x, out, rows, columns, BLOCK_R=4, BLOCK=64)
        return out
