"""Rows and columns beyond the end read others, and are not stored."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, w_ptr, y_ptr, rows, columns, inner, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    r = (tl.program_id(0) * M + tl.arange(0, M)) % rows
    c = (tl.program_id(1) * N + tl.arange(0, N)) % columns
    k = tl.arange(0, K)
    x_at = x_ptr + r[:, None] * inner + k[None, :]
    w_at = w_ptr + k[:, None] * columns + c[None, :]
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, tl.cdiv(inner, K)):
        x = tl.load(x_at, mask=k[None, :] < inner - start * K, other=0.0)
        w = tl.load(w_at, mask=k[:, None] < inner - start * K, other=0.0)
        total += tl.dot(x, w)
        x_at += K
        w_at += K * columns
    r = tl.program_id(0) * M + tl.arange(0, M)
    c = tl.program_id(1) * N + tl.arange(0, N)
    y = tl.where(total < 0.0, 0.0, total).to(tl.float16)
    tl.store(y_ptr + r[:, None] * columns + c[None, :], y, mask=(r[:, None] < rows) & (c[None, :] < columns))


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
