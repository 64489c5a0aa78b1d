"""A product that is given its accumulator."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, w_ptr, y_ptr, rows, columns, inner, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    r = tl.program_id(0) * M + tl.arange(0, M)
    c = tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, tl.cdiv(inner, K)):
        k = start * K + tl.arange(0, K)
        x = tl.load(x_ptr + r[:, None] * inner + k, mask=(r[:, None] < rows) & (k < inner), other=0.0)
        w = tl.load(w_ptr + k[:, None] * columns + c, mask=(k[:, None] < inner) & (c < columns), other=0.0)
        total = tl.dot(x, w, total)
    y = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + r[:, None] * columns + c, y, mask=(r[:, None] < rows) & (c < columns))


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x, w):
        """See the file."""
        x, w = x.contiguous(), w.contiguous()
        rows, inner = x.shape
        columns = w.shape[1]
        y = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
        grid = (triton.cdiv(rows, 16), triton.cdiv(columns, 16))
        kernel[grid](x, w, y, rows, columns, inner, M=16, N=16, K=16)
        return y
