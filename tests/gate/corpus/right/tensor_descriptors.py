"""Tensor descriptors made in the kernel, over operands whose rows are padded to 16 bytes."""

import torch
import triton
import triton.language as tl
from torch import nn


def _allocate(size, alignment, stream):
    return torch.empty(size, device="cuda", dtype=torch.int8)


@triton.jit
def matmul(p_x, p_w, p_bias, p_out, m, n, k, stride, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    top = tl.program_id(0) * M
    left = tl.program_id(1) * N
    x = tl.make_tensor_descriptor(p_x, [m, k], [stride, 1], [M, K])
    w = tl.make_tensor_descriptor(p_w, [n, k], [stride, 1], [N, K])
    total = tl.zeros([M, N], dtype=tl.float32)
    for start in range(0, k, K):
        total += tl.dot(x.load([top, start]), tl.trans(w.load([left, start])), input_precision="ieee")
    row = top + tl.arange(0, M)
    column = left + tl.arange(0, N)
    total += tl.load(p_bias + column, mask=column < n, other=0.0)[None, :]
    total = tl.where(total < 0.0, 0.0, total)
    inside = (row < m)[:, None] & (column < n)[None, :]
    tl.store(p_out + row[:, None] * n + column[None, :], total, mask=inside)


def padded(matrix):
    """Rows of a multiple of 16 bytes, as descriptors need them."""
    return nn.functional.pad(matrix, (0, -matrix.shape[1] % 4)).contiguous()


class ModelNew(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, x):
        triton.set_allocator(_allocate)
        x, w = padded(x), padded(self.linear.weight)
        (m, stride), (n, k) = x.shape, self.linear.weight.shape
        out = torch.empty((m, n), device=x.device, dtype=x.dtype)
        grid = (triton.cdiv(m, 16), triton.cdiv(n, 16))
        matmul[grid](x, w, self.linear.bias, out, m, n, k, stride, M=16, N=16, K=32)
        return out
