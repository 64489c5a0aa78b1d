"""Errors of outputs against the float64 oracle: norm-wise, element-wise, of their mean, and where not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tilewright.gate.compare import scales

#: A candidate's norm-wise error may be so many times the reference's own in its precision class ...
NORM_MULTIPLE = 4.0
#: ... its largest element-wise error so many times the reference's (a maximum varies more than a norm) ...
WORST_MULTIPLE = 6.0
#: ... its bias so many times the reference's ...
BIAS_MULTIPLE = 2.0
#: ... plus so many units of rounding of the output's type, so that a reference without error allows some.
NORM_ULPS = 8.0
WORST_ULPS = 64.0
#: In 16 bits a unit is 0.4 %. What is computed in 32 and rounded once has the reference's own error, and what rounds at
#: every step not many times that: three times it and half a unit. A constant is rounded, too: one unit of bias. Of the
#: largest element four; of n elements 1 + 2 / sqrt(n) times as much, since the errors of few are luck.
SHORT_NORM_MULTIPLE = 3.0
SHORT_NORM_ULPS = 0.5
SHORT_BIAS_ULPS = 1.0
SHORT_WORST_ULPS = 4.0
_OF_FEW = 2.0


@dataclass(frozen=True)
class Errors:
    """How far outputs lie from the oracle.

    Attributes:
        norm: norm of the difference over the norm of the oracle.
        worst: largest difference over the oracle's root mean square.
        not_finite: places where finite was expected and something else came, or the reverse, or another kind.
        where: the place of the worst difference (or of the first that is not finite), expected and got.
        bias: mean error that rounding's spread does not explain, see `scales.bias`; of 16-bit outputs alone.
        peak: the oracle's largest element over its root mean square.
    """

    norm: float
    worst: float
    not_finite: int = 0
    where: str = ""
    bias: float = 0.0
    peak: float = 1.0

    def as_data(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "norm": self.norm, "worst": self.worst, "not_finite": self.not_finite, "where": self.where,
            "bias": self.bias, "peak": self.peak,
        }  # fmt: skip

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Errors:
        """From JSON values."""
        return cls(
            float(data["norm"]), float(data["worst"]), int(data["not_finite"]), str(data["where"]),
            float(data["bias"]), float(data["peak"]),
        )  # fmt: skip


def combine(many: Sequence[Errors]) -> Errors:
    """The largest of each."""
    worst = max(many, key=lambda errors: errors.worst)
    return Errors(
        max(errors.norm for errors in many),
        worst.worst,
        max(errors.not_finite for errors in many),
        worst.where,
        max(errors.bias for errors in many),
        max(errors.peak for errors in many),
    )


@dataclass(frozen=True)
class Allowed:
    """What the gate allows of one output of one probe."""

    norm: float
    worst: float
    bias: float = math.inf

    @classmethod
    def by(cls, reference: Errors, dtype: torch.dtype, elements: int = 1 << 30) -> Allowed:
        """A multiple of the reference's own error, and a few units of rounding of the output's type.

        Args:
            reference: its own errors, in this output.
            dtype: of the output; of a complex one its parts'.
            elements: of the output.
        """
        dtype = real_type(dtype)
        unit = torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.0
        if not scales.judges_bias(dtype):
            return cls(
                NORM_MULTIPLE * reference.norm + NORM_ULPS * unit, WORST_MULTIPLE * reference.worst + WORST_ULPS * unit
            )
        unit *= 1.0 + _OF_FEW / math.sqrt(max(elements, 1))
        return cls(
            SHORT_NORM_MULTIPLE * reference.norm + SHORT_NORM_ULPS * unit,
            WORST_MULTIPLE * reference.worst + SHORT_WORST_ULPS * unit * max(reference.peak, 1.0),
            BIAS_MULTIPLE * reference.bias + SHORT_BIAS_ULPS * unit,
        )

    def pass_(self, errors: Errors) -> bool:
        """True where the errors are allowed. NaN never is."""
        within = errors.norm <= self.norm and errors.worst <= self.worst and errors.bias <= self.bias
        return errors.not_finite == 0 and within


def real_type(dtype: torch.dtype) -> torch.dtype:
    """The type of a complex type's parts; others as they are."""
    return dtype.to_real() if dtype.is_complex else dtype


def is_exact(dtype: torch.dtype) -> bool:
    """Whether values of the type have no rounding: integers and booleans."""
    return not (dtype.is_floating_point or dtype.is_complex)


def compare(
    oracle: Sequence[torch.Tensor], got: Sequence[torch.Tensor], native: Sequence[torch.Tensor] | None = None
) -> Errors:
    """The errors of `got`, the largest over all outputs; see `compare_each`."""
    return combine(compare_each(oracle, got, native) or [Errors(0.0, 0.0)])


def compare_each(
    oracle: Sequence[torch.Tensor], got: Sequence[torch.Tensor], native: Sequence[torch.Tensor] | None = None
) -> list[Errors]:
    """The errors of each output of `got`.

    Args:
        oracle: outputs in float64 (or exact, for integers and booleans).
        got: what is judged; shapes equal the oracle's.
        native: the reference's outputs in its own precision: where it overflows and the oracle does not, any
            value is right; where both are not finite, `got` must be of the same kind.
    """
    natives = native if native is not None else [None] * len(oracle)
    return [compare_one(o, g, n) for o, g, n in zip(oracle, got, natives, strict=True)]


#: Elements that are compared at once: large outputs are gone through in pieces.
_PIECE = 1 << 24


@dataclass
class _Sums:
    """What the pieces of one output add up to, for the values of one scale."""

    error: float = 0.0
    size: float = 0.0
    compared: int = 0
    largest: float = 0.0
    worst_at: int = 0
    highest: float = 0.0

    def errors(self) -> Errors:
        """As ratios to the root mean square."""
        root_mean_square = math.sqrt(self.size / max(self.compared, 1))
        peak = self.highest / root_mean_square if root_mean_square > 0.0 else 1.0
        norm = _ratio(math.sqrt(self.error), math.sqrt(self.size))
        return Errors(norm, _ratio(self.largest, root_mean_square), peak=peak)


@dataclass
class _Mismatches:
    count: int = 0
    first: int = 0


def compare_one(oracle: torch.Tensor, got: torch.Tensor, native: torch.Tensor | None = None) -> Errors:
    """The errors of one output; see `compare_each`."""
    if oracle.numel() == 0:
        return Errors(0.0, 0.0)
    if oracle.is_complex():
        parts = [None if part is None else torch.view_as_real(part.resolve_conj()) for part in (oracle, got, native)]
        assert parts[0] is not None
        assert parts[1] is not None
        return compare_one(parts[0], parts[1], parts[2])
    if is_exact(oracle.dtype):
        wrong = oracle != got.to(oracle.dtype)
        count = int(wrong.sum())
        where = f"{count} of {oracle.numel()} differ"
        where += f", first {_describe(int(wrong.reshape(-1).nonzero()[0]), oracle, got)}" if count else ""
        return Errors(count / oracle.numel(), float(count > 0), 0, where)
    flat = oracle.reshape(-1), got.reshape(-1), None if native is None else native.reshape(-1)
    bounds = scales.fill_bounds(oracle)
    sums, mismatches = [_Sums() for _ in range(len(bounds) + 1)], _Mismatches()
    device = where_to_compare(oracle)
    for start in range(0, oracle.numel(), _PIECE):
        piece = [
            None if values is None else values[start : start + _PIECE].to(device, torch.float64) for values in flat
        ]
        assert piece[0] is not None
        assert piece[1] is not None
        _add_piece(sums, mismatches, bounds, start, piece[0], piece[1], piece[2])
    found = [one.errors() for one in sums]
    worst = max(range(len(sums)), key=lambda index: found[index].worst)
    place = mismatches.first if mismatches.count else sums[worst].worst_at
    bias = 0.0
    if scales.judges_bias(got.dtype):
        bias = scales.bias(*(item.double() for item in flat[:2] if item is not None))
    together = combine(found)
    return replace(together, not_finite=mismatches.count, where=_describe(place, oracle, got), bias=bias)


def where_to_compare(values: torch.Tensor) -> torch.device:
    """Where large tensors are gone through: on the GPU where there is one, whose float64 is the host's."""
    if values.is_cuda or values.numel() < _PIECE // 4 or not torch.cuda.is_available():
        return values.device
    return torch.device("cuda")


def _add_piece(
    sums: Sequence[_Sums], mismatches: _Mismatches, bounds: Sequence[float], start: int, oracle: torch.Tensor,
    got: torch.Tensor, native: torch.Tensor | None,
) -> None:  # fmt: skip
    expected_finite, finite = torch.isfinite(oracle), torch.isfinite(got)
    compared = expected_finite & finite
    mismatched = expected_finite & ~finite
    if native is not None:
        native_finite = torch.isfinite(native)
        compared = compared & native_finite
        mismatched = (mismatched & native_finite) | _other_kind(oracle, native, got)
    else:
        mismatched = mismatched | (~expected_finite & ~_same_kind(oracle, got))
    size = oracle.abs()
    for index, one in enumerate(sums):
        inside = compared
        if index > 0:
            inside = inside & (size > bounds[index - 1])
        if index < len(bounds):
            inside = inside & (size <= bounds[index])
        difference = torch.where(inside, got - oracle, 0.0)
        values = torch.where(inside, size, 0.0)
        one.size += float(values.square().sum())
        one.error += float(difference.square().sum())
        one.compared += int(inside.sum())
        one.highest = max(one.highest, float(values.max()))
        largest, at = difference.abs().max(dim=0)
        if float(largest) > one.largest:
            one.largest, one.worst_at = float(largest), start + int(at)
    count = int(mismatched.sum())
    if count and not mismatches.count:
        mismatches.first = start + int(mismatched.nonzero()[0])
    mismatches.count += count


def _ratio(error: float, size: float) -> float:
    if error == 0.0:
        return 0.0
    return error / size if size > 0.0 else math.inf


def _same_kind(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (torch.isnan(a) & torch.isnan(b)) | (a == b)


def _other_kind(oracle: torch.Tensor, native: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """Places where oracle and reference agree that the value is not finite, and `got` is something else."""
    agreed = ~torch.isfinite(oracle) & _same_kind(oracle, native)
    return agreed & ~_same_kind(oracle, got)


def _describe(place: int, oracle: torch.Tensor, got: torch.Tensor) -> str:
    index: list[int] = []
    rest = place
    for size in reversed(oracle.shape):
        index.insert(0, rest % size)
        rest //= size
    at = tuple(index)
    if is_exact(oracle.dtype):
        return f"at {index}: {got[at].item()}, right is {oracle[at].item()}"
    return f"at {index}: {float(got[at]):.6g}, right is {float(oracle[at]):.6g}"


def wrong_ranges(oracle: torch.Tensor, got: torch.Tensor, tolerance: float) -> str:
    """Which ranges of each dimension hold wrong elements: `dim 2: 32 to 255`, dimensions wholly wrong left out."""
    if oracle.is_complex():
        oracle, got = (torch.view_as_real(values.resolve_conj()) for values in (oracle, got))
    device = where_to_compare(oracle)
    pieces = zip(*(torch.split(values.reshape(-1), _PIECE) for values in (oracle, got)), strict=True)
    found = [_wrong(o.to(device, torch.float64), g.to(device, torch.float64), tolerance) for o, g in pieces]
    wrong = torch.cat(found).reshape(oracle.shape)
    if not bool(wrong.any()):
        return ""
    parts = []
    for dim in range(wrong.dim()):
        others = [d for d in range(wrong.dim()) if d != dim]
        rows = wrong.amax(dim=others) if others else wrong
        indices = rows.nonzero().flatten().tolist()
        if len(indices) < rows.numel():
            text = f"{indices[0]} to {indices[-1]}" if len(indices) > 1 else str(indices[0])
            parts.append(f"dim {dim}: {text}")
    share = int(wrong.sum()) / wrong.numel()
    return ", ".join([f"{share:.0%} of the output", *parts])


def _wrong(oracle: torch.Tensor, got: torch.Tensor, tolerance: float) -> torch.Tensor:
    return ~((got - oracle).abs() <= tolerance) & ~_same_kind(oracle, got)
