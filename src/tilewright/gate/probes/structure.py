"""What is special about an input beside its shape: sorted, without repeats, triangular, shares of one, a mask.

A draw of other values keeps it, since nobody has to be right on inputs that the task never makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tilewright.gate.reference.subject import leaves

#: Tensors with fewer elements are sorted, or triangular, by chance.
_ENOUGH = 6
#: Only so many elements are looked at where all would have to be compared.
_LOOKED_AT = 1 << 25


@dataclass(frozen=True)
class Structure:
    """What is kept of one input.

    Attributes:
        ascending: each row of the last dimension is sorted.
        distinct: no value repeats (whole numbers: positions, permutations).
        triangle: `upper` or `lower` where the other half of the last two dimensions is zero (or false).
        symmetric: the last two dimensions may be exchanged.
        kept: the values are shares that add up to one, a mask of zeros and ones, or hold infinities: never redrawn.
        square: its last two dimensions are equal, and it is triangular or symmetric.
    """

    ascending: bool = False
    distinct: bool = False
    triangle: str = ""
    symmetric: bool = False
    kept: bool = False

    @property
    def square(self) -> bool:
        """Whether its last two dimensions belong together."""
        return bool(self.triangle) or self.symmetric


#: A second draw is looked at where it costs next to nothing.
_SECOND = 1 << 24


def structures_of(own: Sequence[Any], draw: Callable[[int], Sequence[Any]]) -> list[Structure]:
    """What is special about each tensor of a task's own inputs, whatever the seed.

    Args:
        own: the inputs of seed 0.
        draw: makes those of another seed.
    """
    draws = [leaves(list(own))]
    if sum(leaf.numel() for leaf in draws[0]) <= _SECOND:
        draws.append(leaves(list(draw(1))))
    if len({len(one) for one in draws}) > 1:
        del draws[1:]
    return [structure_of(same) for same in zip(*draws, strict=True)]


def structure_of(draws: Sequence[torch.Tensor]) -> Structure:
    """What all of several draws of one input have in common."""
    found = [_one(draw) for draw in draws]
    if not found:
        return Structure()
    triangles = {one.triangle for one in found}
    return Structure(
        all(one.ascending for one in found),
        all(one.distinct for one in found),
        triangles.pop() if len(triangles) == 1 else "",
        all(one.symmetric for one in found),
        all(one.kept for one in found),
    )


def _one(values: torch.Tensor) -> Structure:
    if not _ENOUGH <= values.numel() <= _LOOKED_AT or values.is_complex() or values.dim() == 0:
        return Structure()
    if values.is_floating_point() and torch.finfo(values.dtype).bits < 16:
        values = values.float()
    if bool((values == values.reshape(-1)[0]).all()):
        return Structure()
    whole, flag = not values.is_floating_point(), values.dtype is torch.bool
    triangle = _triangle(values)
    square = values.dim() > 1 and values.shape[-1] == values.shape[-2] > 2
    return Structure(
        not flag and values.shape[-1] >= _ENOUGH and bool((values[..., 1:] >= values[..., :-1]).all()),
        whole and not flag and torch.unique(values).numel() == values.numel(),
        triangle,
        square and not triangle and torch.equal(values, values.transpose(-1, -2)),
        not whole and not triangle and _is_kept(values),
    )


def _triangle(values: torch.Tensor) -> str:
    if values.dim() < 2 or values.shape[-1] != values.shape[-2] or values.shape[-1] < 3:
        return ""
    if torch.equal(values, values.triu()):
        return "upper"
    return "lower" if torch.equal(values, values.tril()) else ""


def _is_kept(values: torch.Tensor) -> bool:
    if bool(torch.isinf(values).any()) or bool(((values == 0) | (values == 1)).all()):
        return True
    if bool((values < 0).any()):
        return False
    shares = [values.float().sum(dim=dim) for dim in range(values.dim()) if values.shape[dim] > 1]
    return any(bool(((total - 1).abs() < 1e-2).all()) for total in shares)


def kept(structure: Structure, drawn: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """A draw with the structure of the task's own input.

    Args:
        structure: what is kept.
        drawn: values of another kind, or of the task's own in another order.
        own: what the task itself makes at this shape; None where it cannot be asked.
    """
    if structure.kept and own is not None:
        return own
    if structure.triangle:
        drawn = _halved(drawn, structure.triangle)
    if structure.symmetric and drawn.shape[-1] == drawn.shape[-2]:
        upper = drawn.triu()
        drawn = upper + drawn.triu(1).transpose(-1, -2)
    if structure.ascending:
        drawn = drawn.sort(dim=-1).values
    return drawn


def _halved(values: torch.Tensor, triangle: str) -> torch.Tensor:
    mask = torch.ones(values.shape[-2:], dtype=torch.bool)
    mask = mask.triu() if triangle == "upper" else mask.tril()
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype))


def resampled(structure: Structure, source: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """So many of an input's own values, flat, with repeats only where it has some.

    Args:
        structure: of the input.
        source: its own values, flat.
        count: how many are taken.
        generator: of the choice.
    """
    if structure.distinct and count <= source.numel():
        picks = torch.randperm(source.numel(), generator=generator)[:count]
        if int(source.min()) == 0 and int(source.max()) == source.numel() - 1:
            return torch.randperm(count, generator=generator).to(source.dtype)  # a permutation stays one
        return source[picks]
    return source[torch.randint(source.numel(), (count,), generator=generator)]
