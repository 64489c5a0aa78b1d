import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def stencil_kernel(x_ptr, out_ptr, H, W, total, BLOCK: tl.constexpr):
    """Five points, zero outside, on [N, H, W]."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < total
    w = offsets % W
    h = (offsets // W) % H
    centre = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    up = tl.load(x_ptr + offsets - W, mask=inside & (h > 0), other=0.0)
    down = tl.load(x_ptr + offsets + W, mask=inside & (h < H - 1), other=0.0)
    left = tl.load(x_ptr + offsets - 1, mask=inside & (w > 0), other=0.0)
    right = tl.load(x_ptr + offsets + 1, mask=inside & (w < W - 1), other=0.0)
    tl.store(out_ptr + offsets, up + down + left + right - 4.0 * centre, mask=inside)


def stencil(x, block=256):
    _, H, W = x.shape
    out = torch.empty_like(x)
    total = x.numel()
    stencil_kernel[(triton.cdiv(total, block),)](x, out, H, W, total, BLOCK=block)
    return out


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return stencil(x.contiguous())
