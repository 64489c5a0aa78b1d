"""The table of edits: each named, its law as `before -> after`, and what it touches."""

from __future__ import annotations

from tilewright.proposers.retune.address_edits import flatten_addresses
from tilewright.proposers.retune.coarsen import coarsen_programs
from tilewright.proposers.retune.edit import Change, Edit
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
        "coarsen_programs",
        "p = tl.program_id(a) -> p = tl.program_id(a) * B + tl.arange(0, B), a trailing axis of B where p goes",
        frozenset({Change.GRID, Change.ADDRESS, Change.ORDER}),
        coarsen_programs,
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
