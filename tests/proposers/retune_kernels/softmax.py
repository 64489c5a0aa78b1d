import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def softmax_kernel(x_ptr, out_ptr, n_columns, stride_row, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < n_columns
    x = tl.load(x_ptr + row * stride_row + columns, mask=mask, other=-float("inf"))
    x = x - tl.max(x, axis=0)
    numerator = tl.exp(x)
    result = numerator / tl.sum(numerator, axis=0)
    tl.store(out_ptr + row * n_columns + columns, result, mask=mask)


def softmax(x):
    rows, columns = x.shape
    out = torch.empty((rows, columns), device=x.device, dtype=x.dtype)
    softmax_kernel[(rows,)](x, out, columns, x.stride(0), BLOCK=triton.next_power_of_2(columns))
    return out


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return softmax(x)
