"""Values changed in the last bit, and integer outputs that such changes move: what no order of operations fixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tilewright.gate.compare.errors import is_exact
from tilewright.gate.reference.subject import map_leaves

#: Operations that say of equal values which comes first: the first one. A candidate must do the same.
FIRST_OF_EQUAL = frozenset({"argmax", "argmin", "max", "min"})
#: Operations that leave the order of equal values open.
ANY_OF_EQUAL = frozenset({"topk", "sort", "kthvalue", "median", "nanmedian", "mode", "argsort", "multinomial"})

_INTEGERS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16,
             torch.bfloat16: torch.int16}  # fmt: skip


def nudged_state(state: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Weights changed in the last bit."""
    return {name: nudge(value, seed + index) for index, (name, value) in enumerate(state.items())}


def nudged_tree(inputs: Sequence[Any], seed: int) -> list[Any]:
    """Inputs changed in the last bit."""
    nudged: list[Any] = map_leaves(list(inputs), lambda tensor: nudge(tensor, seed))
    return nudged


def nudge(values: torch.Tensor, seed: int) -> torch.Tensor:
    """Values changed in the last bit, up or down: what any other order of the same operations may do.

    Those of 16 bits and fewer stay: sums are formed in 32, and the last bit of a short value is no order of them.
    """
    if not values.is_floating_point() or torch.finfo(values.dtype).bits < 32:
        return values
    generator = torch.Generator(values.device).manual_seed(seed)
    up = torch.rand(values.shape, generator=generator, device=values.device) < 0.5
    return _moved(values, up, zeros=False)


def nudged_alike(inputs: Sequence[Any], seed: int) -> list[Any]:
    """Inputs changed in the last bit, equal values alike: what is a tie stays one, what nearly is may turn."""

    def change(values: torch.Tensor) -> torch.Tensor:
        if values.dtype not in _INTEGERS:
            return values
        bits = values.contiguous().view(_INTEGERS[values.dtype]).long()
        return _moved(values, ((bits * 0x9E3779B1 + seed * 0x85EBCA6B) >> 17) % 2 == 0, zeros=False)

    found: list[Any] = map_leaves(list(inputs), change)
    return found


def nudged_apart(inputs: Sequence[Any], seed: int) -> list[Any]:
    """Inputs changed in the last bit, each for itself, zeros too: no tie stays one."""

    def change(values: torch.Tensor) -> torch.Tensor:
        if values.dtype not in _INTEGERS:
            return values
        generator = torch.Generator(values.device).manual_seed(seed)
        return _moved(values, torch.rand(values.shape, generator=generator, device=values.device) < 0.5, zeros=True)

    found: list[Any] = map_leaves(list(inputs), change)
    return found


def _moved(values: torch.Tensor, up: torch.Tensor, *, zeros: bool) -> torch.Tensor:
    if values.dtype is torch.float16:
        # There is no nextafter of half precision on every device; its neighbours are those of the whole numbers.
        whole = values.contiguous().view(torch.int16)
        away = torch.where(whole >= 0, up, ~up)
        moved = (whole + torch.where(away, 1, -1).to(torch.int16)).view(torch.float16)
        moved = torch.where(values == 0, torch.where(up, 6e-8, -6e-8).half(), moved)
    else:
        target = torch.where(up, torch.full_like(values, float("inf")), torch.full_like(values, float("-inf")))
        moved = torch.nextafter(values, target)
    return torch.where(torch.isfinite(values) & ((values != 0) | zeros), moved, values)


def open_range(
    native: torch.Tensor, others: Sequence[torch.Tensor], *, ties_open: bool, most: int = 0
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Lowest and highest right value of each element of an integer output; None where only one is right.

    Args:
        native: the reference's own output.
        others: its output in float64, and on inputs changed in the last bit.
        ties_open: the order of equal values is open: where one moves, any position is right.
        most: the last position that there is.
    """
    assert is_exact(native.dtype)
    runs = [native, *(other.to(native.dtype) for other in others if other.shape == native.shape)]
    if native.numel() == 0 or len(runs) < 2:
        return None
    whole = torch.stack([run.long() for run in runs])
    low, high = whole.amin(dim=0), whole.amax(dim=0)
    unstable = low != high
    if not bool(unstable.any()):
        return None
    if ties_open:
        first, last = whole.min().clamp_max(0), whole.max().clamp_min(most)
        low, high = torch.where(unstable, first, low), torch.where(unstable, last, high)
    return low, high
