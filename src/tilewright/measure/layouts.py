"""Which lane of which warp holds which element of a block: Triton's layouts, as its GPU dialect prints them."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
LANES = 32


@dataclass(frozen=True)
class GlobalAccess:
    """One operation of the compiled kernel that accesses global memory.

    Attributes:
        line: of the source.
        stores: it writes.
        shape: of its block; empty for a scalar.
        layout: text of its layout with aliases resolved; empty for a scalar.
        descriptor: it goes through the tensor memory accelerator.
    """

    line: int
    stores: bool
    shape: tuple[int, ...]
    layout: str
    descriptor: bool = False


_OPERATION = re.compile(
    r"\b(tt\.load|tt\.store|ttg\.async_copy_global_to_local|tt\.atomic_rmw|tt\.atomic_cas"
    r"|ttng\.async_tma_copy_global_to_local|ttng\.async_tma_copy_local_to_global|tt\.descriptor_load"
    r"|tt\.descriptor_store)\b(.*)$"
)
_POINTERS = re.compile(r"tensor<((?:\d+x)+)!tt\.ptr<[^>]*>, (#[^>]*(?:<[^>]*(?:<[^>]*>[^>]*)*>)?)>")
_LOCATION = re.compile(r"loc\((#loc\d*)\)\s*$")


def read_accesses(ttgir: str, file: str = "") -> tuple[GlobalAccess, ...]:
    """The accesses of global memory of a kernel in Triton's GPU dialect.

    Args:
        ttgir: the text, with locations.
        file: name of the source file whose lines count.
    """
    aliases, locations = _aliases(ttgir), _locations(ttgir)
    found = []
    for row in ttgir.splitlines():
        match = _OPERATION.search(row)
        if match is None:
            continue
        place = _LOCATION.search(row)
        line = _line_of(place.group(1), locations, file) if place else 0
        name, rest = match.group(1), match.group(2)
        stores = "store" in name or "atomic" in name or "local_to_global" in name
        pointers = _POINTERS.search(rest)
        if pointers is None:
            found.append(GlobalAccess(line, stores, (), "", "tma" in name or "descriptor" in name))
            continue
        shape = tuple(int(size) for size in pointers.group(1).rstrip("x").split("x"))
        found.append(GlobalAccess(line, stores, shape, _resolved(pointers.group(2), aliases)))
    return tuple(found)


def _aliases(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(#[a-z]+\d*) = (#ttg\.\S.*)$", text, re.MULTILINE))


def _resolved(layout: str, aliases: Mapping[str, str]) -> str:
    return re.sub(r"#[a-z]+\d*\b(?!\.)", lambda match: aliases.get(match.group(0), match.group(0)), layout)


def _locations(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(#loc\d*) = loc\((.*)\)\s*$", text, re.MULTILINE))


def _line_of(name: str, locations: Mapping[str, str], file: str) -> int:
    """The innermost line in `file` that a location leads to."""
    for _ in range(20):
        text = locations.get(name, "")
        direct = re.match(r'"([^"]*)":(\d+):\d+', text)
        if direct:
            return int(direct.group(2)) if not file or direct.group(1).endswith(file) else 0
        called = re.match(r"callsite\((#loc\d*) at (#loc\d*)\)", text)
        if called:
            inner = _line_of(called.group(1), locations, file)
            return inner or _line_of(called.group(2), locations, file)
        named = re.search(r"\((#loc\d*)\)", text)
        if not named:
            return 0
        name = named.group(1)
    return 0


# ---------------------------------------------------------------------------------------------------------
# From a layout to elements


@lru_cache(maxsize=512)
def requests(layout: str, shape: tuple[int, ...], warps: int, vector: int) -> Indices:
    """Flat element indices of the requests that a block's access makes.

    Args:
        layout: of `GlobalAccess`; empty or unknown ones count as rows in order.
        shape: of the block.
        warps: of the program.
        vector: elements that a lane accesses at once.

    Returns:
        int64 [requests, 32, vector]; a request is one instruction of one warp.
    """
    coordinates = _coordinates(layout, shape, warps)
    if coordinates is None:
        return _in_order(math.prod(shape), vector)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    flat = sum(coordinates[axis] * stride for axis, stride in enumerate(strides))
    assert isinstance(flat, np.ndarray)
    # [registers, lanes, warps] -> requests; registers that hold the same elements again are not loaded again.
    flat = _without_repeats(flat)
    registers = flat.shape[0]
    width = vector if registers % vector == 0 else 1
    grouped = flat.reshape(registers // width, width, LANES, -1)
    return np.ascontiguousarray(grouped.transpose(3, 0, 2, 1).reshape(-1, LANES, width))


def _in_order(count: int, vector: int) -> Indices:
    each = LANES * vector
    padded = np.arange(-(-count // each) * each, dtype=np.int64)
    return np.minimum(padded, count - 1).reshape(-1, LANES, vector)


def _without_repeats(flat: Indices) -> Indices:
    """Leave out registers whose elements an earlier one of the same thread holds."""
    registers = flat.shape[0]
    seen: dict[bytes, int] = {}
    kept = [index for index in range(registers) if seen.setdefault(flat[index].tobytes(), index) == index]
    return flat[kept]


def _coordinates(layout: str, shape: tuple[int, ...], warps: int) -> list[Indices] | None:
    """Coordinates, each [registers, lanes, warps]; None for a layout that is not known."""
    kind, fields = _parsed(layout)
    if kind == "slice":
        dim = int(fields["dim"])
        widened = (*shape[:dim], 1, *shape[dim:])
        parent = _coordinates(str(fields["parent"]), widened, warps)
        return None if parent is None else [part for axis, part in enumerate(parent) if axis != dim]
    if kind == "blocked":
        return _blocked(fields, shape, warps)
    if kind == "linear":
        return _linear(fields, shape)
    if kind == "nvidia_mma" and len(shape) == 2:
        return _product(fields, shape, warps)
    return None


def _parsed(layout: str) -> tuple[str, dict[str, Any]]:
    match = re.match(r"#ttg\.(\w+)<\{(.*)\}>$", layout.strip())
    if match is None:
        return "", {}
    kind, body = match.group(1), match.group(2)
    if kind == "slice":
        dim = re.search(r"dim = (\d+)", body)
        parent = re.search(r"parent = (.*)$", body)
        if dim is None or parent is None:
            return "", {}
        return kind, {"dim": int(dim.group(1)), "parent": parent.group(1)}
    fields = {}
    for name, value in re.findall(r"(\w+) = (\[[\[\]\d, -]*\]|\d+)", body):
        fields[name] = ast.literal_eval(value)
    return kind, fields


def _split(number: Indices, sizes: Sequence[int], order: Sequence[int]) -> list[Indices]:
    """A number as coordinates, `order[0]` fastest."""
    found: list[Indices] = [number] * len(sizes)
    for axis in order:
        found[axis] = number % sizes[axis]
        number = number // sizes[axis]
    return found


def _blocked(fields: Mapping[str, Any], shape: tuple[int, ...], warps: int) -> list[Indices] | None:
    try:
        each, threads = fields["sizePerThread"], fields["threadsPerWarp"]
        over, order = fields["warpsPerCTA"], fields["order"]
    except KeyError:
        return None
    if len(each) != len(shape):
        return None
    block = [a * b * c for a, b, c in zip(each, threads, over, strict=True)]
    repeats = [max(1, -(-size // part)) for size, part in zip(shape, block, strict=True)]
    of_register = _split(np.arange(math.prod(each) * math.prod(repeats)), [*each], order)
    of_repeat = _split(np.arange(math.prod(each) * math.prod(repeats)) // math.prod(each), repeats, order)
    of_lane = _split(np.arange(LANES), threads, order)
    of_warp = _split(np.arange(warps), over, order)
    found = []
    for axis, size in enumerate(shape):
        place = (
            of_register[axis][:, None, None]
            + each[axis] * (of_lane[axis][None, :, None] + threads[axis] * of_warp[axis][None, None, :])
            + block[axis] * of_repeat[axis][:, None, None]
        )
        found.append(place % size)
    return found


def _linear(fields: Mapping[str, Any], shape: tuple[int, ...]) -> list[Indices] | None:
    rank = len(shape)
    parts = []
    for name in ("register", "lane", "warp"):
        bases = fields.get(name, [])
        numbers = np.arange(1 << len(bases))
        place = [np.zeros_like(numbers) for _ in range(rank)]
        for bit, base in enumerate(bases):
            if len(base) != rank:
                return None
            for axis in range(rank):
                place[axis] = place[axis] ^ np.where(numbers >> bit & 1, base[axis], 0)
        parts.append(place)
    if parts[1][0].size != LANES:
        return None
    return [
        (parts[0][axis][:, None, None] ^ parts[1][axis][None, :, None] ^ parts[2][axis][None, None, :]) % shape[axis]
        for axis in range(rank)
    ]


def _product(fields: Mapping[str, Any], shape: tuple[int, ...], warps: int) -> list[Indices] | None:
    """The accumulator of a matrix product: pairs of columns, four lanes a row, in tiles of 16x8."""
    over = fields.get("warpsPerCTA")
    if over is None or len(over) != 2:
        return None
    rows, columns = shape
    repeat_m, repeat_n = max(1, rows // (16 * over[0])), max(1, columns // (8 * over[1]))
    register = np.arange(4 * repeat_m * repeat_n)
    pair, half = register % 2, register // 2 % 2
    tile_n, tile_m = register // 4 % repeat_n, register // 4 // repeat_n
    lane, warp = np.arange(LANES), np.arange(warps)
    warp_m, warp_n = warp % over[0], warp // over[0] % over[1]
    row = (half * 8 + tile_m * 16 * over[0])[:, None, None] + (lane // 4)[None, :, None] + (warp_m * 16)[None, None, :]
    column = (pair + tile_n * 8 * over[1])[:, None, None] + (lane % 4 * 2)[None, :, None] + (warp_n * 8)[None, None, :]
    return [row % rows, column % columns]
