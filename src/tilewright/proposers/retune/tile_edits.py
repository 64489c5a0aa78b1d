"""Tile sizes: constexpr block sizes that cover a dimension together with the grid or with a loop."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import libcst as cst

from tilewright.proposers.retune.edit import Context, Proposal, Subject
from tilewright.proposers.retune.facts import has_dot
from tilewright.proposers.retune.host import HostScope
from tilewright.proposers.retune.merit import Extent, merit
from tilewright.proposers.retune.schedule_edits import kernel_advice, launch_options
from tilewright.proposers.retune.tiles import FreeTile, free_tiles
from tilewright.proposers.retune.trees import (
    expression,
    integer_value,
    names_in,
    replace_nodes,
    statement_of,
    walk,
    with_keywords,
)
from tilewright.proposers.retune.view import view_of

#: Elements of a tile that a program may hold at most, and at least.
_MAX_TILE = 32768
_MIN_TILE = 32
#: How many tilings are proposed for one kernel, best first.
_MAX_PROPOSALS = 10


# -- where a tile's size is written ---------------------------------------------------------------------------


@dataclass(frozen=True)
class TileSetting:
    """Where the size of `count` tiles is written: literals of the module that all hold `value`."""

    tile: FreeTile
    value: int
    literals: tuple[cst.CSTNode, ...]
    count: int = 1


def settings_of(subject: Subject) -> tuple[TileSetting, ...]:
    """The free tiles of a kernel whose sizes are literals that can be edited; tiles of one literal are one setting."""
    found = [setting for tile in free_tiles(subject.flow) if (setting := _setting(subject, tile)) is not None]
    merged: list[TileSetting] = []
    for setting in found:
        shared = next((other for other in merged if set(other.literals) & set(setting.literals)), None)
        if shared is None:
            merged.append(setting)
        else:
            merged[merged.index(shared)] = _joined(shared, setting)
    return tuple(merged)


def _joined(one: TileSetting, other: TileSetting) -> TileSetting:
    tile = FreeTile(
        f"{one.tile.name} and {other.tile.name}",
        one.tile.by_program or other.tile.by_program,
        one.tile.by_loop or other.tile.by_loop,
    )
    return TileSetting(tile, one.value, tuple(dict.fromkeys((*one.literals, *other.literals))), one.count + other.count)


def _setting(subject: Subject, tile: FreeTile) -> TileSetting | None:
    literals: list[cst.CSTNode] = []
    for site in subject.kernel.launches:
        arg = site.bound.get(tile.name)
        if arg is None or site.has_star:
            return None
        scope = HostScope(subject.view, site)
        literal = scope.size_literal(arg.value)
        if literal is None:
            return None
        literals.append(literal)
        if tile.by_program and not scope.grid_follows(arg.value, tile.name):
            # The grid may be computed from the same number, written out again.
            again = _written_again(subject, scope, literal) if literal is arg.value else []
            if not again:
                return None
            literals += again
    values = {integer_value(literal) for literal in literals}
    value = next(iter(values)) if len(values) == 1 else None
    if value is None or value < 1 or value & (value - 1):
        return None
    return TileSetting(tile, value, tuple(dict.fromkeys(literals)))


def _written_again(subject: Subject, scope: HostScope, literal: cst.Integer) -> list[cst.Integer]:
    """The same number in the grid; none where it also stands in other places of the function around the launch."""
    again = scope.grid_literals(literal)
    holder = scope.site.function if scope.site.function is not None else subject.view.module
    same = [node for node in walk(holder) if isinstance(node, cst.Integer) and node.value == literal.value]
    return again if {id(node) for node in same} <= {id(node) for node in (*again, literal)} else []


# -- the edit -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tiling:
    """Sizes of the free tiles, and warps."""

    sizes: tuple[int, ...]
    warps: int


def retile(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`BLOCK = n` -> `BLOCK = n * 2**k`, several tiles together, with warps to suit."""
    settings = tuple(s for s in settings_of(subject) if context.is_given(s.tile.name.split(" and ")[0]))
    current = launch_options(subject.kernel)
    if not settings or current is None:
        return
    now = _Tiling(tuple(setting.value for setting in settings), current[0])
    fixed = _fixed_extents(subject, settings)
    base = merit([*fixed, *_extents(settings, now.sizes)], now.warps, subject, context)
    rated = [
        (merit([*fixed, *_extents(settings, tiling.sizes)], tiling.warps, subject, context) / base, tiling)
        for tiling in _tilings(settings, subject, context)
        if tiling.sizes != now.sizes
    ]
    rated.sort(key=lambda pair: (-round(pair[0], 3), _distance(pair[1], now), pair[1].sizes))
    for gain, tiling in _varied(rated, settings):
        yield _proposal(subject, settings, tiling, current, min(max(gain, 0.2), 8.0))


def _extents(settings: Sequence[TileSetting], sizes: Sequence[int]) -> list[Extent]:
    return [
        Extent(size, setting.value, setting.tile.by_program, setting.tile.by_loop)
        for setting, size in zip(settings, sizes, strict=True)
        for _ in range(setting.count)
    ]


def _fixed_extents(subject: Subject, settings: Sequence[TileSetting]) -> list[Extent]:
    """The block sizes that stay: they fill registers too."""
    free = {name for setting in settings for name in setting.tile.name.split(" and ")}
    ranged = {name for call in subject.flow.calls("arange") for name in names_in(call)} - free
    found: list[Extent] = []
    for name in subject.kernel.constexprs:
        site = subject.kernel.launches[0]
        arg = site.bound.get(name)
        literal = HostScope(subject.view, site).size_literal(arg.value) if arg is not None else None
        size = integer_value(literal)
        if name in ranged and size:
            found.append(Extent(size, size, False, False))
    return found


def _distance(tiling: _Tiling, now: _Tiling) -> float:
    """How far a tiling is from the given one, in doublings: of equals the nearest is tried first."""
    pairs = zip((*tiling.sizes, tiling.warps), (*now.sizes, now.warps), strict=True)
    return sum(abs(math.log2(new / old)) for new, old in pairs)


def _varied(rated: Sequence[tuple[float, _Tiling]], settings: Sequence[TileSetting]) -> Iterator[tuple[float, _Tiling]]:
    """The first few, no more than two with the same sizes, three with the same grid."""
    sizes: Counter[tuple[int, ...]] = Counter()
    grids: Counter[tuple[int, ...]] = Counter()
    for gain, tiling in rated:
        grid = tuple(size for setting, size in zip(settings, tiling.sizes, strict=True) if setting.tile.by_program)
        if sizes[tiling.sizes] < 2 and (grids[grid] < 3 or len(grid) == len(settings)):
            sizes[tiling.sizes] += 1
            grids[grid] += 1
            yield gain, tiling
        if sizes.total() == _MAX_PROPOSALS:
            return


def _tilings(settings: Sequence[TileSetting], subject: Subject, context: Context) -> Iterator[_Tiling]:
    least = 16 if has_dot(subject.flow) else 1
    choices = [
        [size for shift in range(-6, 4) if least <= (size := _shifted(setting.value, shift)) <= 8192]
        for setting in settings
    ]
    most = _MAX_TILE * (16 if has_dot(subject.flow) else 1)
    fixed = math.prod(extent.size for extent in _fixed_extents(subject, settings))
    warps = kernel_advice(subject, context).num_warps
    for sizes in itertools.product(*choices):
        total = math.prod(size**setting.count for setting, size in zip(settings, sizes, strict=True))
        if _MIN_TILE <= total * fixed <= most:
            yield from (_Tiling(sizes, count) for count in warps)


def _shifted(value: int, shift: int) -> int:
    return value << shift if shift >= 0 else value >> -shift


def _proposal(
    subject: Subject, settings: Sequence[TileSetting], tiling: _Tiling, current: tuple[int, int], gain: float
) -> Proposal:
    changes: dict[cst.CSTNode, cst.CSTNode] = {}
    for setting, size in zip(settings, tiling.sizes, strict=True):
        if size != setting.value:
            changes.update({literal: expression(str(size)) for literal in setting.literals})
    source = _edited(subject, changes, tiling.warps, current)
    words = [
        f"{setting.tile.name} {size} instead of {setting.value}"
        for setting, size in zip(settings, tiling.sizes, strict=True)
        if size != setting.value
    ]
    if tiling.warps != current[0]:
        words.append(f"{tiling.warps} warps instead of {current[0]}")
    return Proposal(source, ", ".join(words), gain)


def _edited(subject: Subject, literals: Mapping[cst.CSTNode, cst.CSTNode], warps: int, current: tuple[int, int]) -> str:
    """The literals first, then the warps on a fresh reading: both may lie in one launch."""
    changes: dict[cst.CSTNode, cst.CSTNode] = dict(literals)
    changes.update(_without_stale_comments(subject, literals))
    source = replace_nodes(subject.view.module, changes).code
    if warps == current[0]:
        return source
    view = view_of(source)
    kernel = view.kernel(subject.name)
    if kernel is None:
        return source
    calls = {site.call: with_keywords(site.call, {"num_warps": str(warps)}) for site in kernel.launches}
    return replace_nodes(view.module, calls).code


def _without_stale_comments(
    subject: Subject, literals: Mapping[cst.CSTNode, cst.CSTNode]
) -> dict[cst.CSTNode, cst.CSTNode]:
    """A comment on the line of an old size spoke of the old size."""
    found: dict[cst.CSTNode, cst.CSTNode] = {}
    for literal in literals:
        line = statement_of(literal, subject.view.parents)
        if line is None or line.trailing_whitespace.comment is None or len(line.body) != 1:
            continue
        if isinstance(line.body[0], cst.Assign):
            found[line.trailing_whitespace] = cst.TrailingWhitespace()
    return found
