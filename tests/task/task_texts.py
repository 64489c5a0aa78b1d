"""Texts that the tests of this folder share."""

MODULE = """\
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def scale_kernel(x_ptr, y_ptr, count, factor, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    tl.store(y_ptr + offsets, tl.load(x_ptr + offsets, mask=mask) * factor, mask=mask)


class ModelNew(nn.Module):
    def __init__(self, width, factor):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.factor = factor

    def forward(self, x):
        x = self.linear(x)
        y = torch.empty_like(x)
        scale_kernel[(triton.cdiv(x.numel(), 128),)](x, y, x.numel(), self.factor, BLOCK=128)
        return y
"""

REFERENCE = """\
import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, width, factor):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.factor = factor

    def forward(self, x):
        return self.linear(x) * self.factor


def get_init_inputs():
    return [8, 2.0]


def get_inputs():
    return [torch.rand(4, 8)]
"""

METRICS = '{\n  "scale_kernel": {\n    "launch__grid_size": 32,\n    "lts__t_sector_hit_rate.pct": 50.5\n  }\n}\n'

DOCUMENT = f"""\
# Target GPU: 4090

[OPTIMIZATION STAGE]

Focus: Memory pattern for fused operations.

- Single tl.store() for final output

[CURRENT CODE]
```python
{MODULE}```

[NCU PROFILING METRICS]
{METRICS}
**Task**: Make it faster.

## Missing Triton Functions
- tl.tanh, tl.gelu

## OUTPUT FORMAT (STRICT):
1. Imports: torch
2. Kernels

Do NOT include: testing code, get_inputs
"""
