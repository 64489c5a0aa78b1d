"""The table of edits: each named, its law as `before -> after`, and what it touches."""

from __future__ import annotations

from tilewright.proposers.retune.access_edits import cache_hints, constant_sizes, even_masks
from tilewright.proposers.retune.accumulate import accumulate_tiles
from tilewright.proposers.retune.address_edits import flatten_addresses
from tilewright.proposers.retune.coarsen import coarsen_programs
from tilewright.proposers.retune.edit import Change, Edit
from tilewright.proposers.retune.order_edits import group_programs, turn_programs
from tilewright.proposers.retune.schedule_edits import (
    insert_autotune,
    resolve_autotune,
    shorten_autotune,
    warps_and_stages,
)
from tilewright.proposers.retune.tile_edits import retile

#: Edits of what a kernel does and how it is called, in the order in which they build on one another.
STRUCTURE: tuple[Edit, ...] = (
    Edit(
        "flatten_addresses",
        "(o // W) * s_h + (o % W) * s_w -> o * s_w, where s_h == W * s_w",
        frozenset({Change.ADDRESS, Change.CONSTEXPR}),
        flatten_addresses,
    ),
    Edit(
        "accumulate_tiles",
        "s += tl.sum(v, axis=a) in a loop -> t += v in the loop, s += tl.sum(t, axis=a) behind it",
        frozenset({Change.ADDRESS}),
        accumulate_tiles,
    ),
    Edit(
        "coarsen_programs",
        "p = tl.program_id(a) -> p = tl.program_id(a) * B + tl.arange(0, B), a trailing axis of B where p goes",
        frozenset({Change.GRID, Change.ADDRESS, Change.ORDER}),
        coarsen_programs,
    ),
    Edit(
        "group_programs",
        "m, n = tl.program_id(0), tl.program_id(1) -> m, n = tl.swizzle2d(...) of the same place",
        frozenset({Change.ORDER, Change.ADDRESS}),
        group_programs,
    ),
    Edit(
        "turn_programs",
        "axis 0 fastest -> axis 1 fastest: place // num_programs(1), place % num_programs(1)",
        frozenset({Change.ORDER, Change.ADDRESS}),
        turn_programs,
    ),
    Edit(
        "even_masks",
        "o < X -> (o < X) | (X % T == 0), X constexpr, where tiles of T count X out",
        frozenset({Change.ADDRESS, Change.CONSTEXPR}),
        even_masks,
    ),
    Edit(
        "constant_sizes",
        "def k(.., W, ..) -> def k(.., W: tl.constexpr, ..), W an integer that is only read",
        frozenset({Change.CONSTEXPR}),
        constant_sizes,
    ),
    Edit(
        "cache_hints",
        "tl.load(p) -> tl.load(p, eviction_policy=..) or cache_modifier='.cg'",
        frozenset({Change.HINT}),
        cache_hints,
    ),
)

#: Edits of the schedule alone.
TUNING: tuple[Edit, ...] = (
    Edit(
        "resolve_autotune",
        "@triton.autotune([.., c, ..]); k[grid](...) -> k[grid](..., **c)",
        frozenset({Change.AUTOTUNE}),
        resolve_autotune,
    ),
    Edit(
        "retile",
        "BLOCK = n -> BLOCK = n * 2**k, where the grid or a loop covers what the tile does not",
        frozenset({Change.TILE, Change.WARPS}),
        retile,
    ),
    Edit(
        "warps_and_stages",
        "k[grid](..., num_warps=a, num_stages=b) -> k[grid](..., num_warps=c, num_stages=d)",
        frozenset({Change.WARPS, Change.STAGES}),
        warps_and_stages,
    ),
    Edit(
        "shorten_autotune",
        "@triton.autotune(many) -> @triton.autotune(few, the baseline among them)",
        frozenset({Change.AUTOTUNE}),
        shorten_autotune,
    ),
    Edit(
        "insert_autotune",
        "@triton.jit -> @triton.autotune(warps x stages, key=integers) @triton.jit, where it may run twice",
        frozenset({Change.AUTOTUNE}),
        insert_autotune,
    ),
)
