"""Inputs and weights that a probe runs on: named ways to draw them, each reproducible from its seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tilewright.gate.compare.scales import fill_bounds
from tilewright.gate.probes.structure import Structure, kept, resampled
from tilewright.gate.reference.subject import Tree, leaves, map_leaves

Draw = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def _normal(scale: float) -> Draw:
    def draw(shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(shape_of.shape, generator=generator, dtype=torch.float64).mul_(scale).to(shape_of.dtype)

    return draw


def _negative(shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return _normal(1.0)(shape_of, generator).abs_().neg_()


def _zeros(shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.zeros(shape_of.shape, dtype=shape_of.dtype)


def _heavy(shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    normal = torch.randn(shape_of.shape, generator=generator, dtype=torch.float64)
    return (normal * (2.0 * normal.abs()).exp()).to(shape_of.dtype)


def _non_finite(shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    values = _normal(1.0)(shape_of, generator)
    flat = values.view(-1)
    places = torch.randperm(flat.numel(), generator=generator)[:3]
    for place, value in zip(places.tolist(), (float("nan"), float("inf"), float("-inf")), strict=False):
        flat[place] = value
    return values


def _steps(shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Few distinct values, many of them equal."""
    normal = torch.randn(shape_of.shape, generator=generator, dtype=torch.float64)
    return normal.mul_(2.0).round_().div_(2.0).to(shape_of.dtype)


def _mean(value: float) -> Draw:
    def draw(shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        values = torch.randn(shape_of.shape, generator=generator, dtype=torch.float64)
        return values.add_(value).to(shape_of.dtype)

    return draw


def _strongly_negative(shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape_of.shape, generator=generator, dtype=torch.float64)
    return values.abs_().mul_(-30.0).sub_(10.0).to(shape_of.dtype)


#: Name -> how floating-point inputs are drawn; integers and booleans are always drawn from the task's own values.
DRAWS: Mapping[str, Draw] = {
    "normal": _normal(1.0),
    "negative": _negative,
    "zeros": _zeros,
    "times 1e-3": _normal(1e-3),
    "of few values": _steps,
    "heavy-tailed": _heavy,
    "with mean 1000": _mean(1e3),
    "with mean -1000": _mean(-1e3),
    "strongly negative": _strongly_negative,
    "times 100": _normal(1e2),
    "times 1e4": _normal(1e4),
    "times 1e6": _normal(1e6),
    "times 1e-20": _normal(1e-20),
    **{f"times 1e{power}": _normal(10.0**power) for power in (9, 12, 18, 24)},
    "infinities and NaN": _non_finite,
}

#: Draws that are tried from the first to the last, until the reference's own outputs are all finite.
HUGE: tuple[str, ...] = ("times 1e24", "times 1e18", "times 1e12", "times 1e9")
#: ... and stay so at so many times these values: where it is about to overflow itself, nobody is asked more.
HUGE_MARGIN = 1e3


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.dim() > 1 else tensor


def _every_second(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() == 0:
        return tensor
    roomy = torch.zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]), dtype=tensor.dtype)
    return roomy[..., ::2].copy_(tensor)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    forms = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=forms[tensor.dim()]) if tensor.dim() in forms else tensor


#: The layout in which a user's `.to(memory_format=torch.channels_last)` has put the module's weights too.
MODULE_LAYOUT = "channels last, weights too"

#: Name -> how inputs lie in memory; an input that a layout does not fit stays as it is.
LAYOUTS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "packed": lambda tensor: tensor,
    "transposed": _transposed,
    "every second element": _every_second,
    "channels last": _channels_last,
    MODULE_LAYOUT: _channels_last,
}

#: How many of the task's own values are kept to draw from.
SAMPLE = 1 << 20


def samples(inputs: Sequence[Any]) -> list[torch.Tensor]:
    """Values of each tensor of the task's own inputs, flat, at most `SAMPLE` of each."""
    return [leaf.detach().reshape(-1)[:SAMPLE].clone() for leaf in leaves(list(inputs))]


#: Elements of the task's own inputs, all together, up to which they are made where there is no GPU.
MOST_MADE = 1 << 30


def stand_ins(inputs: Sequence[Any]) -> list[torch.Tensor]:
    """Values in the place of `samples` for inputs that are too large to be made: normal ones, zeros for integers."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1 << 12, generator=generator).to(leaf.dtype)
        if leaf.is_floating_point()
        else torch.zeros(1, dtype=leaf.dtype)
        for leaf in leaves(list(inputs))
    ]


def draw_inputs(
    template: Sequence[Any],
    own: Sequence[torch.Tensor],
    how: str,
    seed: int,
    *,
    structures: Sequence[Structure] = (),
    made: Sequence[torch.Tensor] | None = None,
    bounds: Mapping[int, int] | None = None,
) -> list[Any]:
    """Inputs of the template's shapes and dtypes.

    Args:
        template: inputs on the meta device.
        own: samples of the task's own values, one tensor for each of the template's.
        how: `own` (drawn from the samples) or a name of `DRAWS`.
        seed: of the draw.
        structures: of each tensor, what every draw of it keeps.
        made: what the task itself makes at these shapes; None where it cannot be asked.
        bounds: sizes of the task that have shrunk, old to new: positions below the old stay below the new.
    """
    generator = torch.Generator().manual_seed(seed)
    number = iter(range(len(own)))

    def draw(shape_of: torch.Tensor) -> torch.Tensor:
        index = next(number)
        structure = structures[index] if structures else Structure()
        mine = None if made is None else made[index]
        if how == "own" or not shape_of.is_floating_point() or own[index].numel() == 0:
            if mine is not None:
                return mine
            picked = _picked(shape_of, own[index], structure, bounds or {}, generator)
            return kept(structure, picked, None)
        return kept(structure, _named(how, shape_of, generator), mine)

    drawn: list[Any] = map_leaves(list(template), draw)
    return drawn


def _picked(
    shape_of: torch.Tensor, source: torch.Tensor, structure: Structure, bounds: Mapping[int, int],
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """Values of the task's own in another order."""
    if source.numel() == 0:
        return torch.zeros(shape_of.shape, dtype=shape_of.dtype)
    picked = resampled(structure, source, shape_of.numel(), generator)
    old = min((size for size in bounds if lie_below(source, size)), default=None)
    picked = picked if old is None else picked % max(bounds[old], 1)
    return picked.reshape(shape_of.shape)


def lie_below(values: torch.Tensor, size: int) -> bool:
    """Whether values are whole numbers that may be positions below a size: they reach nearly up to it."""
    if values.is_floating_point() or values.is_complex() or values.dtype is torch.bool or not values.numel():
        return False
    return int(values.min()) >= 0 and size / 2 <= int(values.max()) < size


def _named(how: str, shape_of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A draw by its name; a type of 8 bits takes what it can hold."""
    if torch.finfo(shape_of.dtype).bits >= 16:
        return DRAWS[how](shape_of, generator)
    most = torch.finfo(shape_of.dtype).max
    wide = DRAWS[how](torch.empty(shape_of.shape, device="meta"), generator)
    return wide.nan_to_num().clamp(-most, most).to(shape_of.dtype)


def redraw_weights(
    module: torch.nn.Module, scale: float, seed: int, *, moderate: bool = False
) -> dict[str, torch.Tensor]:
    """A state like the module's own, spread so that no tensor stays constant.

    Tensors of two or more dimensions are normal with `scale` times their own spread; vectors are normal around
    their mean (`moderate`: their mean cut to [-1, 1]); buffers that are nowhere negative (variances) stay
    positive; integers stay.
    """
    positive = {name for name, buffer in module.named_buffers() if buffer.numel() and bool((buffer >= 0).all())}
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, torch.Tensor] = {}
    for name, own in module.state_dict().items():
        if not own.is_floating_point() or own.numel() == 0:
            drawn[name] = own.clone()
            continue
        noise = torch.randn(own.shape, generator=generator, dtype=torch.float32)
        spread = float(own.float().std(correction=0))
        mean = float(own.float().mean())
        if name in positive and mean > 0:
            values = own.float() * (torch.rand(own.shape, generator=generator) + 0.5)
        elif own.dim() > 1 and spread > 0:
            values = noise * spread * scale
        else:
            mean = min(max(mean, -1.0), 1.0) if moderate else mean
            values = mean + noise * max(spread, 0.3 * abs(mean), 0.1) * min(scale, 1.0)
        drawn[name] = values.to(own.dtype)
    return drawn


@dataclass(frozen=True)
class Response:
    """How an output answers to its inputs, between two draws of them.

    Attributes:
        share: of the elements that differ by more than a thousandth of the output's root mean square, in [0, 1].
        strength: mean difference over the root mean square.
    """

    share: float
    strength: float


#: Elements that are looked at at once.
_PIECE = 1 << 24


def response(first: Tree, second: Tree) -> Response:
    """The response of the output that answers least."""
    found = [_response(a.reshape(-1), b.reshape(-1)) for a, b in zip(leaves(first), leaves(second), strict=True)]
    return min(found, key=lambda one: one.strength, default=Response(0.0, 0.0))


def _response(a: torch.Tensor, b: torch.Tensor) -> Response:
    if a.is_complex():
        a, b = (torch.view_as_real(values.resolve_conj()).reshape(-1) for values in (a, b))
    if a.shape != b.shape:
        return Response(1.0, 1.0)  # the very shape depends on the inputs
    pieces = [(start, start + _PIECE) for start in range(0, a.numel(), _PIECE)]
    squares = count = 0.0
    most = min(fill_bounds(a), default=math.inf)  # a mask's -1e9 says nothing of how large answers are
    for start, stop in pieces:
        values, finite = _finite(a[start:stop], b[start:stop])
        finite = finite & (values.abs() <= most)
        squares += float(torch.where(finite, values, 0.0).square().sum())
        count += float(finite.sum())
    if not count:
        return Response(0.0, 0.0)
    size = max(math.sqrt(squares / count), 1e-30)
    answered = total = 0.0
    for start, stop in pieces:
        values, finite = _finite(a[start:stop], b[start:stop])
        difference = torch.where(finite, (values - b[start:stop].double()).abs(), 0.0) / size
        answered += float((difference > 1e-3).sum())
        total += float(difference.sum())
    return Response(answered / a.numel(), total / a.numel())


def _finite(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first as float64, and where both are finite."""
    first = a.double()
    return first, torch.isfinite(first) & torch.isfinite(b.double())
