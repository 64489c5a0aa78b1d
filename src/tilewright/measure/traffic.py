"""From sampled addresses to traffic: requests, sectors and lines of a program, and what each cache keeps of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tilewright.gate.inside.accesses import AccessKind
from tilewright.measure.layouts import GlobalAccess, requests
from tilewright.measure.sass import Instruction, Space
from tilewright.measure.seen import KINDS, KernelCode, SeenAccess, SeenLaunch

SECTOR = 32
LINE = 128
Numbers = npt.NDArray[np.int64]

#: Bits of an address below the number of its memory.
_MEMORY_SHIFT = 44


@dataclass
class SiteTraffic:
    """What one place of the source asks of memory, of one program.

    Attributes:
        line: of the source.
        stores: it writes.
        executions: how often a program comes there.
        requests: instructions of a warp with an active lane.
        sectors, lines: of 32 and 128 bytes, summed over requests.
        asked_bytes: summed over active lanes.
        lane_bytes: that one lane of the program asks for, masked or not (what the instructions are counted by).
        missed_sectors: that L1 does not hold.
        missed_lines: lines with a sector that L1 does not hold, summed over requests.
        run_bytes: contiguous bytes that one execution touches together, in the mean.
    """

    line: int
    stores: bool
    executions: float = 0.0
    requests: float = 0.0
    sectors: float = 0.0
    lines: float = 0.0
    asked_bytes: float = 0.0
    lane_bytes: float = 0.0
    missed_sectors: float = 0.0
    missed_lines: float = 0.0
    runs: float = 0.0
    touched_bytes: float = 0.0

    @property
    def run_bytes(self) -> float:
        """Contiguous bytes that are touched together."""
        return self.touched_bytes / self.runs if self.runs else float(LINE)


@dataclass(frozen=True)
class TensorTraffic:
    """What one program asks of one tensor, behind L1.

    Attributes:
        argument: position among the launch's tensors.
        unique_sectors: different sectors that are read.
        again: (sectors read again from L2, bytes that the program asked for in between).
        stored_sectors: different sectors that are written.
        tensor_bytes: of the memory behind it.
        shared: (share of its reads that an earlier program has made, how many programs earlier).
        run_bytes: contiguous bytes that one execution touches together.
        beside: part of the programs whose runs others continue.
    """

    argument: int
    unique_sectors: float
    again: tuple[tuple[float, float], ...]
    stored_sectors: float
    tensor_bytes: int
    shared: tuple[tuple[float, float], ...]
    run_bytes: float
    beside: float


@dataclass(frozen=True)
class ProgramTraffic:
    """What a typical program of a launch asks of memory.

    Attributes:
        sites: by place of the source.
        tensors: by tensor.
        complete: the program was followed to its end.
    """

    sites: tuple[SiteTraffic, ...]
    tensors: tuple[TensorTraffic, ...]
    complete: bool = True
    notes: tuple[str, ...] = field(default=())


def program_traffic(seen: SeenLaunch, code: KernelCode, warps: int, l1_bytes_per_program: float) -> ProgramTraffic:
    """Traffic of the followed program.

    Args:
        seen: sampled accesses of the launch.
        code: of the kernel, for the layouts and the widths of its accesses.
        warps: of a program.
        l1_bytes_per_program: of L1 that a program has to itself while others are resident.
    """
    matched = _match_lines(seen.accesses, code.accesses)
    widths = _widths(code.instructions)
    sites: dict[tuple[int, bool], SiteTraffic] = {}
    stream: list[tuple[int, bool, Numbers, bool, int]] = []
    for access in seen.accesses:
        stores = access.kind is not AccessKind.LOAD
        operation = matched.get((access.line, stores, access.shape))
        line = operation.line if operation is not None else access.line
        site = sites.setdefault((line, stores), SiteTraffic(line, stores))
        width, past_l1 = widths.get((line, stores), (0, False))
        _count(access, operation, site, warps, width)
        if access.offsets is not None and access.mask is not None:
            sectors = _sectors(access)
            stream.append((access.argument, stores, sectors, past_l1, id(site)))
    scale = _scale(seen.accesses)
    by_id = {id(site): site for site in sites.values()}
    tensors = _through_caches(seen, stream, by_id, l1_bytes_per_program, scale)
    return ProgramTraffic(tuple(sites.values()), tensors, seen.complete)


def _scale(accesses: Sequence[SeenAccess]) -> float:
    """How much more there is than was kept with its addresses."""
    whole = sum(access.active * access.element_bytes for access in accesses)
    kept = sum(access.active * access.element_bytes for access in accesses if access.offsets is not None)
    return whole / kept if kept else 1.0


def _match_lines(
    seen: Sequence[SeenAccess], compiled: Sequence[GlobalAccess]
) -> dict[tuple[int, bool, tuple[int, ...]], GlobalAccess]:
    """(interpreter's line, stores, shape) -> operation of the compiled kernel.

    The two name different lines of a call that spans several: then the nearest of the same shape is meant.
    """
    found: dict[tuple[int, bool, tuple[int, ...]], GlobalAccess] = {}
    for access in seen:
        stores = access.kind is not AccessKind.LOAD
        key = access.line, stores, access.shape
        if key in found:
            continue
        same = [item for item in compiled if item.stores == stores and (item.shape == access.shape or item.descriptor)]
        near = min(same, key=lambda item: abs(item.line - access.line), default=None)
        if near is not None:
            found[key] = near
    return found


def _widths(code: Sequence[Instruction]) -> dict[tuple[int, bool], tuple[int, bool]]:
    """(line, stores) -> bytes of a lane's access and whether it goes past L1."""
    found: dict[tuple[int, bool], tuple[int, bool]] = {}
    for instruction in code:
        if instruction.space is Space.GLOBAL:
            key = instruction.line, instruction.is_store
            width, past = found.get(key, (0, True))
            found[key] = max(width, instruction.bytes_per_lane), past and instruction.past_l1
    return found


def _count(access: SeenAccess, operation: GlobalAccess | None, site: SiteTraffic, warps: int, width: int) -> None:
    """Add one access to its place's requests, sectors and lines."""
    site.executions += 1
    site.asked_bytes += access.active * access.element_bytes
    elements = math.prod(access.shape) if access.shape else 1
    vector = max(1, width // access.element_bytes)
    site.lane_bytes += max(access.element_bytes * vector, elements * access.element_bytes / (32 * warps))
    if not access.active:
        return
    if access.offsets is None or access.mask is None:
        previous = max(site.executions - 1, 1)
        for name in ("requests", "sectors", "lines", "runs", "touched_bytes"):
            setattr(site, name, getattr(site, name) * (1 + 1 / previous))
        return
    layout = operation.layout if operation is not None else ""
    lanes = requests(layout, access.shape or (1,), warps, min(vector, elements))
    if access.kind is not AccessKind.LOAD or elements < 32 * warps:
        lanes = np.unique(lanes.reshape(lanes.shape[0], -1), axis=0).reshape(-1, *lanes.shape[1:])
    addresses = access.offsets[lanes]
    active = access.mask[lanes]
    site.requests += int(np.count_nonzero(active.any(axis=(1, 2))))
    site.sectors += _distinct(addresses // SECTOR, active)
    site.lines += _distinct(addresses // LINE, active)
    touched = np.unique(access.offsets[access.mask] // SECTOR)
    site.runs += 1 + int(np.count_nonzero(np.diff(touched) > 1))
    site.touched_bytes += touched.size * SECTOR


def _distinct(numbers: Numbers, active: npt.NDArray[np.bool_]) -> int:
    """Different numbers of each request, summed."""
    flat = np.where(active, numbers, np.int64(-(1 << 60))).reshape(numbers.shape[0], -1)
    flat.sort(axis=1)
    changes = np.count_nonzero(np.diff(flat, axis=1), axis=1) + 1
    inactive = np.any(~active.reshape(active.shape[0], -1), axis=1)
    return int((changes - inactive).sum())


def _sectors(access: SeenAccess) -> Numbers:
    assert access.offsets is not None
    assert access.mask is not None
    return np.unique(access.offsets[access.mask] // SECTOR)


# ---------------------------------------------------------------------------------------------------------
# Caches


def _through_caches(
    seen: SeenLaunch,
    stream: Sequence[tuple[int, bool, Numbers, bool, int]],
    sites: Mapping[int, SiteTraffic],
    l1_bytes: float,
    scale: float,
) -> tuple[TensorTraffic, ...]:
    """The program's sectors in order, through L1 (least recently used first), and what is left for L2."""
    if not stream:
        return ()
    memory = [seen.tensors[item[0]].storage if item[0] >= 0 else 0 for item in stream]
    sizes = [item[2].size for item in stream]
    sectors = np.concatenate(
        [item[2] + (np.int64(number) << _MEMORY_SHIFT) for item, number in zip(stream, memory, strict=True)]
    )
    owner = np.repeat(np.arange(len(stream)), sizes)
    stores = np.repeat([item[1] for item in stream], sizes)
    past = np.repeat([item[3] for item in stream], sizes)
    previous = _previous(np.where(stores, ~sectors, sectors))
    place = np.arange(sectors.size)
    distance = np.where(previous >= 0, (place - previous) * SECTOR, np.iinfo(np.int64).max)
    hits = (distance <= l1_bytes) & ~past & ~stores
    _missed(stream, sizes, hits, stores, sites)
    arguments = np.repeat([item[0] for item in stream], sizes)
    found = []
    for argument in sorted({item[0] for item in stream}):
        own = arguments == argument
        reads = own & ~stores
        again = reads & (previous >= 0) & ~hits
        runs = [sites[stream[index][4]] for index in np.unique(owner[own])]
        run = float(np.mean([site.run_bytes for site in runs])) if runs else float(LINE)
        found.append(
            TensorTraffic(
                argument,
                float(np.count_nonzero(reads & (previous < 0))) * scale,
                _binned(distance[again], scale),
                float(np.count_nonzero(own & stores & (previous < 0))) * scale,
                _tensor_bytes(seen, argument),
                _sharing(seen, argument),
                run,
                _beside(seen, argument, run),
            )
        )
    return tuple(found)


def _previous(sectors: Numbers) -> Numbers:
    """For each place of a stream, where the same number stood before; -1 where it did not."""
    order = np.argsort(sectors, kind="stable")
    same = sectors[order][1:] == sectors[order][:-1]
    previous = np.full(sectors.size, -1, dtype=np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous


def _missed(
    stream: Sequence[tuple[int, bool, Numbers, bool, int]],
    sizes: Sequence[int],
    hits: npt.NDArray[np.bool_],
    stores: npt.NDArray[np.bool_],
    sites: Mapping[int, SiteTraffic],
) -> None:
    """Share out each place's sectors among L1's hits and misses: what its requests ask for twice at once also hits."""
    at = 0
    kept: dict[int, list[float]] = {}
    for item, size in zip(stream, sizes, strict=True):
        missing = size - int(np.count_nonzero(hits[at : at + size]))
        total = kept.setdefault(item[4], [0.0, 0.0])
        total[0] += missing
        total[1] += size
        at += size
    for identity, (lost, whole) in kept.items():
        site = sites[identity]
        if site.stores:
            site.missed_sectors, site.missed_lines = site.sectors, site.lines
            continue
        part = lost / whole if whole else 1.0
        # Different sectors of an execution, over those summed over its requests.
        once = min(1.0, site.touched_bytes / SECTOR / site.sectors) if site.sectors else 1.0
        site.missed_sectors = site.sectors * once * part
        site.missed_lines = site.lines * min(1.0, once * part * max(1.0, site.sectors / max(site.lines, 1.0)))


def _binned(distances: Numbers, scale: float) -> tuple[tuple[float, float], ...]:
    """Distances as a few (count, mean)."""
    if not distances.size:
        return ()
    parts = np.array_split(np.sort(distances), min(6, distances.size))
    return tuple((float(part.size) * scale, float(part.mean())) for part in parts if part.size)


def _tensor_bytes(seen: SeenLaunch, argument: int) -> int:
    if argument < 0:
        return 0
    tensor = seen.tensors[argument]
    span = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True) if size > 0)
    return span * tensor.element_bytes


def _beside(seen: SeenLaunch, argument: int, run: float) -> float:
    """Part of the programs that start where another one's run of bytes ends."""
    if not seen.begun.size:
        return 0.0
    rows = seen.begun[seen.begun[:, 2] == argument]
    starts = {(int(row[3]), int(row[4]) // SECTOR) for row in rows}
    step = max(1, round(run / SECTOR))
    continued = sum((line, start + step) in starts or (line, start - step) in starts for line, start in starts)
    return continued / len(starts) if starts else 0.0


def _sharing(seen: SeenLaunch, argument: int) -> tuple[tuple[float, float], ...]:
    """How much of what programs read first an earlier program has read, and how many programs earlier.

    Two programs share a block where its first and last sector are the same; dense blocks also in part.
    """
    rows = seen.begun[(seen.begun[:, 2] == argument) & (seen.begun[:, 1] == KINDS.index(AccessKind.LOAD))] if (
        seen.begun.size
    ) else seen.begun  # fmt: skip
    if not rows.size:
        return ()
    _, first = np.unique(rows[:, 0] * (1 << 20) + rows[:, 3], return_index=True)
    rows = rows[np.sort(first)]
    blocks: dict[tuple[int, int, int], int] = {}
    recent: dict[int, list[tuple[int, int, int]]] = {}
    gaps: dict[float, float] = {}
    count = 0
    for number, _, _, line, low, high, active, size in rows.tolist():
        if not active:
            continue
        key = line, low // SECTOR, high // SECTOR
        count += 1
        earlier = blocks.get(key)
        if earlier is not None and earlier != number:
            gaps[number - earlier] = gaps.get(number - earlier, 0.0) + 1.0
        elif earlier is None and high - low < 2 * active * size:
            gap, part = _overlap(number, low, high, recent.get(line, []))
            if part > 0:
                gaps[gap] = gaps.get(gap, 0.0) + part
        blocks[key] = number
        recent.setdefault(line, []).append((number, low, high))
        del recent[line][:-8]
    # The first programs of the window have no earlier ones: what is shared is told from the later half.
    return _steady(rows, gaps, count)


def _overlap(number: int, low: int, high: int, earlier: Sequence[tuple[int, int, int]]) -> tuple[int, float]:
    best: tuple[int, float] = (0, 0.0)
    for other, start, end in earlier:
        common = min(high, end) - max(low, start)
        part: float = common / max(high - low, 1)
        if other != number and part > best[1]:
            best = (number - other, min(part, 1.0))
    return best


def _steady(rows: Numbers, gaps: Mapping[float, float], count: int) -> tuple[tuple[float, float], ...]:
    """Shares with the programs left out that are too early to have had a partner at that distance."""
    programs = int(rows[-1, 0] - rows[0, 0]) + 1
    found = []
    for gap, times in gaps.items():
        able = count * max(programs - gap, 1) / programs
        found.append((min(1.0, times / max(able, 1.0)), float(gap)))
    total = sum(part for part, _ in found)
    return tuple((part / max(total, 1.0), gap) for part, gap in found if part > 0.01)
