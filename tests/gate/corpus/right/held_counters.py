"""The same with counters that live on: more of them than are needed, and zeros again after each launch."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def row_sum(p_x, p_weight, p_part, p_count, p_out, features, parts, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    part = tl.program_id(1)
    column = part * BLOCK + tl.arange(0, BLOCK)
    inside = column < features
    x = tl.load(p_x + row * features + column, mask=inside, other=0.0)
    weight = tl.load(p_weight + column, mask=inside, other=0.0)
    total = tl.sum(x * weight, axis=0)
    # As bits: exchanges of floats are not to be had everywhere.
    tl.atomic_xchg(p_part + row * parts + part, total.to(tl.int32, bitcast=True))
    if tl.atomic_add(p_count + row, 1) == parts - 1:
        every = tl.arange(0, PARTS)
        found = tl.load(p_part + row * parts + every, mask=every < parts, other=0, volatile=True)
        tl.store(p_out + row, tl.sum(found.to(tl.float32, bitcast=True), axis=0))
        tl.store(p_count + row, 0)


COUNTERS = {}


def counters(x, count):
    """At least so many zeros."""
    held = COUNTERS.get(x.device)
    if held is None or held.numel() < count:
        held = COUNTERS[x.device] = torch.zeros(max(count, 512), device=x.device, dtype=torch.int32)
    return held


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x.contiguous()
        rows, features = x.shape
        parts = triton.cdiv(features, 64)
        scratch = torch.empty((rows, parts), device=x.device, dtype=torch.int32)
        out = torch.empty(rows, device=x.device, dtype=x.dtype)
        row_sum[(rows, parts)](
            x,
            self.weight,
            scratch,
            counters(x, rows),
            out,
            features,
            parts,
            PARTS=triton.next_power_of_2(parts),
            BLOCK=64,
        )
        return out
