import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def layer_norm_kernel(x_ptr, weight_ptr, bias_ptr, out_ptr, features, eps, BLOCK: tl.constexpr):
    """One row for each program, in three passes over it."""
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, features, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * features + offsets, mask=offsets < features, other=0.0)
        total += x
    mean = tl.sum(total, axis=0) / features

    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, features, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        mask = offsets < features
        x = tl.load(x_ptr + row * features + offsets, mask=mask, other=0.0)
        centred = tl.where(mask, x - mean, 0.0)
        squares += centred * centred
    scale = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / features + eps)

    for start in range(0, features, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        mask = offsets < features
        x = tl.load(x_ptr + row * features + offsets, mask=mask, other=0.0)
        weight = tl.load(weight_ptr + offsets, mask=mask, other=0.0)
        bias = tl.load(bias_ptr + offsets, mask=mask, other=0.0)
        tl.store(out_ptr + row * features + offsets, (x - mean) * scale * weight + bias, mask=mask)


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.eps = 1e-5

    def forward(self, x):
        x = x.contiguous()
        features = x.shape[-1]
        rows = x.numel() // features
        out = torch.empty_like(x)
        layer_norm_kernel[(rows,)](x, self.weight, self.bias, out, features, self.eps, BLOCK=64)
        return out
