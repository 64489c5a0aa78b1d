"""Autotuned, with configurations pruned by the arguments."""

import torch
import triton
import triton.language as tl
from torch import nn


def fitting(configs, named_args, **kwargs):
    """Configurations no larger than the tensor."""
    return [config for config in configs if config.kwargs["BLOCK"] <= max(named_args["n"], 64)] or configs[:1]


@triton.autotune(
    configs=[triton.Config({"BLOCK": 64}, num_warps=2), triton.Config({"BLOCK": 256}, num_warps=4)],
    key=["n"],
    prune_configs_by={"early_config_prune": fitting},
)
@triton.jit
def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n)
    tl.store(y_ptr + o, x * tl.sigmoid(2.0 * 0.7978845608028654 * (x + 0.044715 * x * x * x)), mask=o < n)


class ModelNew(nn.Module):
    """See the file."""

    def forward(self, x):
        """See the file."""
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n)
        return y
