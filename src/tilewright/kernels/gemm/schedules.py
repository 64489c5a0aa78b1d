"""Schedules of GEMM anchors that are worth trying, by shape and target, the most promising first.

What a candidate costs is estimated roughly: full waves of tiles on the target's multiprocessors, at the rate that
tiles of that size reach, or the bytes that must move, whichever takes longer. The clock decides where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from tilewright.gpu import Gpu
from tilewright.graph.graph import Graph
from tilewright.kernels.gemm.plan import GemmSchedule, find_products, group_size, rows_are_aligned, wants_whole_rows
from tilewright.kernels.gemm.product import Product
from tilewright.kernels.operands import Operands
from tilewright.values.precision import PrecisionClass

#: (rows, columns, warps) of tiles for tensor cores, and the part of the peak rate that they reach when many are there.
_TILES = (
    (128, 256, 8, 0.85),
    (256, 128, 8, 0.80),
    (128, 128, 8, 0.72),
    (128, 128, 4, 0.74),
    (64, 256, 8, 0.66),
    (128, 64, 4, 0.60),
    (64, 128, 4, 0.60),
    (64, 64, 4, 0.45),
    (64, 32, 4, 0.30),
    (32, 64, 4, 0.30),
    (32, 128, 4, 0.38),
    (16, 64, 4, 0.20),
    (16, 128, 4, 0.25),
    (16, 256, 8, 0.28),
    (64, 16, 4, 0.18),
    (128, 16, 4, 0.22),
    (32, 32, 4, 0.20),
    (32, 16, 4, 0.12),
    (16, 32, 4, 0.12),
    (16, 16, 4, 0.08),
)

#: The same for products in float32, without tensor cores.
_IEEE_TILES = (
    (128, 128, 8, 0.60),
    (128, 64, 8, 0.55),
    (64, 128, 8, 0.55),
    (64, 64, 4, 0.50),
    (32, 64, 4, 0.35),
    (16, 64, 4, 0.25),
    (16, 32, 4, 0.20),
    (16, 16, 4, 0.10),
)

#: Columns of the widest tile: larger groups are left to other kernels.
_LARGEST_GROUP = 256

#: Row blocks that are walked together where one loop goes over tiles and steps: measured 0.5 % faster than 8 (H200).
_FLAT_GROUP = 16

#: Rows up to which a product is bound by its operands' bytes.
_FEW_ROWS = 32

#: Microseconds of one more launch.
_LAUNCH_US = 3.0


@dataclass(frozen=True)
class GemmShape:
    """A product's sizes at the example inputs, and what its epilogue asks of the tiles.

    Attributes:
        batch, m, n, k: sizes, elements.
        dtype: of the operands.
        whole_rows: tiles that hold whole rows fuse more.
        group: columns that must lie in one tile.
        describable: rows of operands as given can be described to the tensor memory accelerator.
    """

    batch: int
    m: int
    n: int
    k: int
    dtype: torch.dtype
    whole_rows: bool = False
    group: int = 0
    describable: bool = False


def gemm_schedules(shape: GemmShape, target: Gpu, kinds: tuple[Operands, ...]) -> tuple[GemmSchedule, ...]:
    """Schedules that fit the target's shared memory, the most promising first.

    Args:
        shape: the product.
        target: what it runs on.
        kinds: operands that its precision class allows.
    """
    found = {
        schedule: estimate_us(schedule, shape, target)
        for kind in kinds
        for schedule in _candidates(kind, shape, target)
        if schedule.shared_bytes(shape.dtype.itemsize) <= target.shared_bytes_per_block
    }
    ordered = sorted(found, key=lambda schedule: found[schedule])
    whole = [s for s in ordered if shape.whole_rows and _holds_rows(s, shape)]
    return tuple(dict.fromkeys([*_tiles_of(whole)[:3], *_varied(ordered)]))


def schedule_sets(
    graph: Graph, target: Gpu, precision: PrecisionClass, count: int
) -> tuple[tuple[GemmSchedule, ...], ...]:
    """Schedules for all products of a graph, `count` times at most; the n-th set has each product's n-th choice.

    Args:
        graph: the canonical graph.
        target: what it runs on.
        precision: class of the module's products.
        count: sets at most.
    """
    choices = []
    for product in find_products(graph):
        shape = shape_of(product, graph)
        choices.append(gemm_schedules(shape, target, operand_kinds(shape, precision)))
    longest = max((len(found) for found in choices), default=0)
    sets = [
        tuple(found[min(position, len(found) - 1)] for found in choices if found)
        for position in range(min(longest, count))
    ]
    return tuple(dict.fromkeys(sets))


def operand_kinds(shape: GemmShape, precision: PrecisionClass) -> tuple[Operands, ...]:
    """What may be multiplied in a class.

    Few rows cost their bytes in any kind, and libraries multiply them in float32, which sets the error that is
    allowed.
    """
    if shape.dtype is not torch.float32:
        return (Operands.GIVEN,)
    if precision is not PrecisionClass.TF32:
        return (Operands.IEEE,)
    return (Operands.HALF, Operands.TF32, *((Operands.IEEE,) if shape.m <= _FEW_ROWS else ()))


def shape_of(product: Product, graph: Graph) -> GemmShape:
    """A product's sizes, and what its epilogue asks of the tiles."""
    batch, m, n, k = product.sizes(graph)
    whole, group, described = wants_whole_rows(product), group_size(product), rows_are_aligned(product)
    return GemmShape(batch, m, n, k, product.dtype, whole, group, described)


def _holds_rows(schedule: GemmSchedule, shape: GemmShape) -> bool:
    return shape.n <= schedule.finish_columns


def _tiles_of(ordered: list[GemmSchedule]) -> list[GemmSchedule]:
    """The best of each tile and number of warps: how many programs share a multiprocessor is theirs to say."""
    found: dict[tuple[int, int, int], GemmSchedule] = {}
    for schedule in ordered:
        found.setdefault((schedule.block_m, schedule.block_n, schedule.num_warps), schedule)
    return list(found.values())


def _varied(ordered: list[GemmSchedule]) -> list[GemmSchedule]:
    """The list with the best of each way of loading and of each kind of operands early, then of each tile."""
    ways: dict[tuple[object, ...], GemmSchedule] = {}
    tiles: dict[tuple[object, ...], GemmSchedule] = {}
    for schedule in ordered:
        way = (schedule.operands, schedule.descriptors, schedule.split > 1, schedule.flat)
        ways.setdefault(way, schedule)
        tiles.setdefault((*way, schedule.block_m, schedule.block_n), schedule)
    return list(dict.fromkeys([*ordered[:2], *ways.values(), *tiles.values(), *ordered]))


def _candidates(kind: Operands, shape: GemmShape, target: Gpu) -> Iterator[GemmSchedule]:
    tiles = _IEEE_TILES if kind is Operands.IEEE else _TILES
    for rows, columns, warps, _ in tiles:
        if not _suits(rows, columns, shape) or not _is_sound(kind, rows * columns, warps):
            continue
        for inner in _inner_steps(kind, rows, columns, shape):
            plain = GemmSchedule(kind, rows, columns, inner, warps, 3, programs=target.sm_count)
            yield from _staged(plain, shape, target)
    if shape.whole_rows and kind is not Operands.IEEE:
        yield from _wide_tiles(kind, shape, target)


def _is_sound(kind: Operands, size: int, warps: int) -> bool:
    """The compiler gets it right, and without spills.

    Seen on an H200 with triton 3.6: products in TF32 were wrong (errors of 1e-2 to 1e-1) where one operand alone was
    rounded in registers, in tiles of 128 x 256 for eight warps, read through descriptors. Right with both rounded, as
    they are now; the cause is not known, so descriptors are left out there (`_staged`).
    """
    return kind is not Operands.TF32 or size < 128 * 128 or warps > 4


def _suits(rows: int, columns: int, shape: GemmShape) -> bool:
    """Not more than twice what the product has, and no fewer columns than a group."""
    fits = rows <= max(16, 2 * shape.m - 1) and columns <= max(16, 2 * shape.n - 1)
    return fits and (columns >= shape.group or shape.group > _LARGEST_GROUP)


def _inner_steps(kind: Operands, rows: int, columns: int, shape: GemmShape) -> tuple[int, ...]:
    if kind is Operands.IEEE:
        return (16,) if rows * columns > 4096 else (32,)
    steps = (32,) if kind is Operands.TF32 else (64, 128) if rows * columns <= 8192 else (64, 32)
    bounded = tuple(step for step in steps if step <= max(16, 2 * shape.k - 1))
    return bounded or (16,)


def _staged(plain: GemmSchedule, shape: GemmShape, target: Gpu) -> Iterator[GemmSchedule]:
    size = plain.block_m * plain.block_n
    stages = (2,) if plain.operands is Operands.IEEE else (3, 4) if size >= 128 * 128 else (4, 3)
    described = target.capability >= 90 and shape.batch == 1
    described = described and (
        plain.operands is Operands.HALF or (plain.operands is Operands.GIVEN and shape.describable)
    )
    for count in stages:
        staged = replace(plain, num_stages=count)
        if described and plain.block_m >= 64 and plain.block_n >= 32:
            for parts in (2, 4) if size >= 128 * 256 else (1, 2) if size >= 128 * 128 else (1,):
                if plain.block_n // parts >= max(shape.group, 32):
                    described_one = replace(staged, descriptors=True, parts=parts)
                    yield _staying(described_one, shape, target)
                    if size >= 128 * 256 and plain.block_m <= 128:  # measured slower with more rows
                        yield _staying(replace(described_one, flat=True, group_m=_FLAT_GROUP), shape, target)
        if plain.operands is not Operands.TF32 or size <= 128 * 128:
            yield staged  # larger ones spill
    tiles = shape.batch * math.ceil(shape.m / plain.block_m) * math.ceil(shape.n / plain.block_n)
    steps = math.ceil(shape.k / plain.block_k)
    if tiles * 2 <= target.sm_count and steps >= 8:
        split = min(16, steps // 4, 1 << round(math.log2(2 * target.sm_count / tiles)))
        if split > 1:
            yield replace(plain, split=split, num_stages=stages[0])


def _staying(schedule: GemmSchedule, shape: GemmShape, target: Gpu) -> GemmSchedule:
    """As many programs as stay on the target's multiprocessors: two of four warps each, where both find room."""
    room = target.shared_bytes_per_sm // (schedule.shared_bytes(shape.dtype.itemsize) + 1024)
    return replace(schedule, programs=target.sm_count * (2 if schedule.num_warps == 4 and room >= 2 else 1))


def _wide_tiles(kind: Operands, shape: GemmShape, target: Gpu) -> Iterator[GemmSchedule]:
    """Tiles that hold whole rows: few rows, all columns."""
    columns = 1 << max(4, (shape.n - 1).bit_length())
    inner = 32 if kind is Operands.TF32 or columns > 256 else 64
    for rows, warps in ((128, 8), (64, 4), (64, 8), (32, 8), (32, 4), (16, 4)):
        fits = rows * columns <= warps * 32 * 128 and columns <= 512
        if fits and _is_sound(kind, rows * columns, warps):
            for stages in (3, 2):
                yield GemmSchedule(kind, rows, columns, inner, warps, stages, programs=target.sm_count)


def estimate_us(schedule: GemmSchedule, shape: GemmShape, target: Gpu) -> float:
    """Rough time of a schedule, microseconds: waves of tiles or bytes, and the launches beside it."""
    s = schedule
    tiles = shape.batch * math.ceil(shape.m / s.block_m) * math.ceil(shape.n / s.block_n) * s.split
    rate = target.fp32_tflops
    if s.operands is not Operands.IEEE:
        wide = s.operands is Operands.TF32
        rate = target.tensor_tflops[PrecisionClass.TF32 if wide else PrecisionClass.FP16]
    table = _IEEE_TILES if s.operands is Operands.IEEE else _TILES
    part = next((part for m, n, w, part in table if (m, n, w) == (s.block_m, s.block_n, s.num_warps)), 0.4)
    part *= 1.1 if s.descriptors else 1.0
    part *= 1.0 + 0.01 * s.num_stages if s.flat else 1.0  # 2 to 4 % on an H100, most with four stages
    part *= 0.9 if s.block_k == 32 and s.operands is Operands.HALF else 1.0
    waves = tiles / target.sm_count if tiles > 8 * target.sm_count else math.ceil(tiles / target.sm_count)
    step = 2.0 * s.block_m * s.block_n * math.ceil(shape.k / s.split)
    compute = waves * step / (rate * 1e6 * part / target.sm_count)
    size = 2 if s.operands is Operands.HALF else shape.dtype.itemsize
    left, right = shape.batch * shape.m * shape.k, shape.batch * shape.n * shape.k
    moved = size * (left + right) + 4 * shape.batch * shape.m * shape.n
    extra, launches = 0.0, 1.0
    if s.operands is Operands.HALF:
        extra += 6.0 * (left + right)  # both are packed in each call
        launches += 4.0
    if s.split > 1:
        extra += 8.0 * s.split * shape.batch * shape.m * shape.n
        launches += 1.0
    bandwidth = target.bandwidth_gb_s * 1e3
    return max(compute, moved / bandwidth) + extra / bandwidth + launches * _LAUNCH_US
