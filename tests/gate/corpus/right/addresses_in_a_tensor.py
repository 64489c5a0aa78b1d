"""Addresses of tensors, loaded from a tensor."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(addresses_ptr, n, FACTOR: tl.constexpr, BLOCK: tl.constexpr):
    which = tl.program_id(1)
    source = tl.load(addresses_ptr + which).to(tl.pointer_type(tl.float32))
    target = tl.load(addresses_ptr + 2).to(tl.pointer_type(tl.float32))
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(source + o, mask=o < n)
    tl.store(target + 2 * o + which, tl.where(which == 1, x * FACTOR, x), mask=o < n)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x, y):
        """See the file."""
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype, device=x.device)
        n = x.numel()
        addresses = [x.data_ptr(), y.data_ptr(), out.data_ptr()]
        addresses = torch.tensor(addresses, dtype=torch.int64, device=x.device)
        kernel[(triton.cdiv(n, 64), 2)](addresses, n, FACTOR=3.0, BLOCK=64)
        return out
