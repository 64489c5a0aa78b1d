"""L2: what of a launch's reads it holds, from the reuse that sampled programs show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.gpu.gpu import Gpu
from tilewright.measure import constants as c
from tilewright.measure.traffic import SECTOR, TensorTraffic

#: Compute capabilities whose L2 is two halves; what is at home in the other one is looked up in both.
#: Source: NVIDIA A100 and H100 whitepapers ("the L2 cache is divided into two partitions").
_TWO_HALVES = (80, 90, 100)

_ROUNDS = 30


@dataclass(frozen=True)
class L2Traffic:
    """L2's view of a launch.

    Attributes:
        read_bytes, stored_bytes: that the multiprocessors ask for.
        dram_read_bytes, dram_written_bytes: that go on to device memory.
        hit_percent: sectors that hit, as Nsight Compute counts them.
        read_hit: part of the reads that hit, of each tensor, in the order given.
        run_bytes: contiguous bytes that are fetched together, in the mean over what is fetched.
        beside: part of the fetches whose neighbours in memory other programs fetch at the same time.
        lookup_bytes: looked up in all, as Nsight Compute counts them.
    """

    read_bytes: float
    stored_bytes: float
    dram_read_bytes: float
    dram_written_bytes: float
    hit_percent: float
    read_hit: tuple[float, ...]
    run_bytes: float
    beside: float
    lookup_bytes: float


def through_l2(tensors: Sequence[TensorTraffic], programs: int, resident: int, gpu: Gpu) -> L2Traffic:
    """What L2 makes of a launch.

    The volume between a read and the next one of the same sector decides whether L2 still holds it. Programs run
    staggered: so many programs later means that so many programs' missing bytes have passed.

    Args:
        tensors: traffic of one program, behind L1.
        programs: of the launch.
        resident: programs that the GPU holds at once.
        gpu: the target.
    """
    capacity = gpu.l2_bytes * c.L2_PART
    unique = [tensor.unique_sectors * SECTOR for tensor in tensors]
    hits = [0.0] * len(tensors)
    for _ in range(_ROUNDS):
        missing = sum(size * (1.0 - hit) for size, hit in zip(unique, hits, strict=True))
        new = [_hit(index, tensors, missing, programs, resident, capacity) for index in range(len(tensors))]
        hits = [(old + now) / 2 for old, now in zip(hits, new, strict=True)]
    return _summed_up(tensors, hits, programs, resident, capacity, gpu)


def hit_percent_with_spills(l2: L2Traffic, spilled_bytes: float) -> float:
    """Sectors that hit, where registers are spilled too: L1 passes stores of local memory on, and L2 takes them.

    Measured on an H200: what hits of a kernel that reads everything once is its spilled registers, to a percent.
    """
    whole = l2.lookup_bytes + spilled_bytes
    return (l2.hit_percent * l2.lookup_bytes + 100.0 * spilled_bytes) / whole if whole else 0.0


def held(volume: float, capacity: float) -> float:
    """Probability that a cache still holds what was read before `volume` other bytes."""
    if volume <= 0:
        return 1.0
    return float(1.0 / (1.0 + min(volume / capacity, 1e3) ** c.L2_SHARPNESS))


def _hit(
    index: int, tensors: Sequence[TensorTraffic], missing: float, programs: int, resident: int, capacity: float
) -> float:
    """Part of the first reads of a program that an earlier program has brought and L2 still holds."""
    tensor = tensors[index]
    found = shared = 0.0
    for part, gap in tensor.shared:
        in_step = c.PROGRAMS_IN_STEP * max(0.0, 1.0 - gap / max(resident, 1))
        alone = 1.0 if programs <= resident else 0.0
        found += part * max(held(gap * missing, capacity), in_step, alone)
        shared += part
    asked = programs * tensor.unique_sectors * SECTOR
    uses = asked / tensor.tensor_bytes if tensor.tensor_bytes else 1.0
    far = max(0.0, 1.0 - 1.0 / max(uses, 1.0) - shared)
    if far > 0.01:
        gap = programs / uses
        volume = sum(min(other.tensor_bytes, gap * other.unique_sectors * SECTOR) for other in tensors)
        found += far * held(volume, capacity)
    return min(found, 1.0)


def _summed_up(
    tensors: Sequence[TensorTraffic], hits: Sequence[float], programs: int, resident: int, capacity: float, gpu: Gpu
) -> L2Traffic:
    read = stored = fetched = written = weighted = 0.0
    near_hits = lookups = beside = 0.0
    halves = 0.5 if gpu.capability in _TWO_HALVES else 0.0
    missing = sum(t.unique_sectors * SECTOR * (1 - hit) for t, hit in zip(tensors, hits, strict=True))
    asked = sum(t.unique_sectors * SECTOR + sum(n for n, _ in t.again) * SECTOR for t in tensors)
    read_hits = []
    for tensor, hit in zip(tensors, hits, strict=True):
        first = tensor.unique_sectors * SECTOR
        again = sum(count for count, _ in tensor.again) * SECTOR
        kept = sum(
            count * SECTOR * held(distance * min(resident, programs) * missing / max(asked, 1.0), capacity)
            for count, distance in tensor.again
        )
        total, hit_bytes = first + again, first * hit + kept
        from_dram = max(programs * (total - hit_bytes), _compulsory(tensor, programs))
        part = 1.0 - from_dram / (programs * total) if total else 0.0
        read_hits.append(part)
        read += programs * total
        fetched += from_dram
        weighted += from_dram / max(tensor.run_bytes, SECTOR)
        beside += from_dram * tensor.beside
        # Half of what a neighbour brought lies in the other half of the cache, unless many use it.
        near = part * (1.0 - halves / max(1.0, _users(tensor)))
        lookups += programs * total * (1.0 + halves * (1.0 - near))
        near_hits += programs * total * part
        out = tensor.stored_sectors * SECTOR * programs
        stored += out
        written += min(out, tensor.tensor_bytes or out)
        lookups += out * (1.0 + halves)
        near_hits += out * (1.0 + halves)
    # What was written last is still in the cache when the kernel ends.
    written = max(0.0, written - min(written, c.L2_DIRTY_PART * gpu.l2_bytes))
    rate = 100.0 * near_hits / lookups if lookups else 0.0
    run = fetched / weighted if weighted else 128.0
    part = beside / fetched if fetched else 0.0
    return L2Traffic(read, stored, fetched, written, rate, tuple(read_hits), run, part, lookups)


def _compulsory(tensor: TensorTraffic, programs: int) -> float:
    """Bytes that must come from memory at least once: all of a tensor that every program shares with another."""
    new = 1.0 - sum(share for share, _ in tensor.shared)
    asked = programs * tensor.unique_sectors * SECTOR
    return min(asked, float(tensor.tensor_bytes)) if new < 0.005 else min(asked, asked * new)


def _users(tensor: TensorTraffic) -> float:
    """About how many programs use what one of them reads."""
    part = sum(share for share, _ in tensor.shared)
    return math.inf if part > 0.999 else 1.0 / (1.0 - part)
