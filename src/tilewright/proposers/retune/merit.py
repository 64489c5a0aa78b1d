"""A rough prior for a tiling: programs enough to fill the GPU, work enough for a thread, no more than it can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.proposers.retune.edit import Context, Subject
from tilewright.proposers.retune.facts import FULL_WAVES, has_dot, programs


@dataclass(frozen=True)
class Extent:
    """One block size of a kernel.

    Attributes:
        size: elements now, `profiled` when the profile was taken.
        by_program: the grid has fewer programs when it grows.
        by_loop: a loop runs over it.
    """

    size: int
    profiled: int
    by_program: bool
    by_loop: bool


def merit(extents: Sequence[Extent], warps: int, subject: Subject, context: Context) -> float:
    """Larger is better; only ratios mean anything."""
    body = _dot_merit(extents, warps, context) if has_dot(subject.flow) else _stream_merit(extents, warps)
    count = programs(subject.name, context)
    if count is None:
        return body
    for extent in extents:
        if extent.by_program:
            count *= extent.profiled / extent.size
    return body * math.pow(min(1.0, count / (FULL_WAVES * context.gpu.sm_count)), 0.7)


def _stream_merit(extents: Sequence[Extent], warps: int) -> float:
    """One to four 16-byte vectors of float32 for each thread."""
    per_thread = math.prod(extent.size for extent in extents) / (32 * warps)
    if per_thread < 4:
        return math.sqrt(per_thread / 4)
    return 1.0 if per_thread <= 16 else math.sqrt(16 / per_thread)


def _dot_merit(extents: Sequence[Extent], warps: int, context: Context) -> float:
    """Products for each operand element, within the accumulator's registers and the operands' shared memory."""
    outer = [extent.size for extent in extents if not extent.by_loop]
    inner = [extent.size for extent in extents if extent.by_loop]
    depth = inner[0] if inner else 32
    rows, columns = (outer[0], outer[1]) if len(outer) > 1 else (outer[0] if outer else 64, 64)
    if (rows + columns) * depth * 4 * 2 > context.gpu.shared_bytes_per_block:
        return 0.01
    intensity = rows * columns / (rows + columns)
    accumulators = rows * columns / (32 * warps)
    crowded = 1.0 if accumulators <= 64 else (0.9 if accumulators <= 128 else 0.2)
    idle = 1.0 if accumulators >= 16 else 0.6
    return math.pow(min(intensity, 64.0), 0.7) * crowded * idle * (1.0 if 32 <= depth <= 64 else 0.8)
