import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def scale_shift_kernel(
    x_ptr,
    bias_ptr,
    out_ptr,
    C,
    H,
    W,
    total,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    scale,
    BLOCK: tl.constexpr,
):
    """out = silu(x * scale + bias[c]) for x of [N, C, H, W] with any strides; out is contiguous."""
    pid = tl.program_id(axis=0)
    index = pid * BLOCK + tl.arange(0, BLOCK)
    mask = index < total
    w = index % W
    h = (index // W) % H
    c = (index // (H * W)) % C
    n = index // (C * H * W)
    x = tl.load(x_ptr + n * stride_n + c * stride_c + h * stride_h + w * stride_w, mask=mask, other=0.0)
    bias = tl.load(bias_ptr + c, mask=mask, other=0.0)
    y = x * scale + bias
    tl.store(out_ptr + index, y / (1.0 + tl.exp(-y)), mask=mask)


class ModelNew(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        out = torch.empty(x.shape, device=x.device, dtype=x.dtype)
        _N, C, H, W = x.shape
        grid = (triton.cdiv(x.numel(), 128),)
        scale_shift_kernel[grid](
            x, self.bias, out, C, H, W, x.numel(), x.stride(0), x.stride(1), x.stride(2), x.stride(3), 1.5, BLOCK=128
        )
        return out
