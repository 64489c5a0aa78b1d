"""A module, a document, and how a command ended: what the tests of the command share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """stdout as the one JSON object that it must be."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Command = Callable[..., Ended]

MODEL = """import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.linear = nn.Linear(features, 24)

    def forward(self, x):
        return torch.relu(self.linear(x)) * 2.0


def get_inputs():
    return [torch.rand(6, 16)]


def get_init_inputs():
    return [16]
"""

DOCUMENT = """# Target GPU: 4090

[OPTIMIZATION STAGE]

## Current Optimization Stage

Focus: Memory pattern for fused operations.

[CURRENT CODE]
```python
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def scale_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    tl.store(p_y + o, tl.load(p_x + o, mask=m) * 2.0, mask=m)


def scale(x):
    y = torch.empty_like(x)
    scale_kernel[(triton.cdiv(x.numel(), 64),)](x, y, x.numel(), BLOCK=64)
    return y


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return scale(x.contiguous())
```

[NCU PROFILING METRICS]
{"scale_kernel": {"launch__grid_size": 12, "lts__t_sector_hit_rate.pct": 50.01}}

OUTPUT RULES (STRICT):
2. Do NOT include: testing code, if __name__, get_inputs, get_init_inputs
"""


def line_of(text: str, part: str) -> int:
    """The line of `text`, counting from 1, in which `part` first stands."""
    return text[: text.index(part)].count("\n") + 1
