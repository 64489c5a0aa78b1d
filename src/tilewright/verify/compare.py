"""Errors of outputs against the float64 oracle: norm-wise, element-wise, and where values are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

#: A candidate's norm-wise error may be so many times the reference's own in its precision class ...
NORM_MULTIPLE = 4.0
#: ... its largest element-wise error so many times the reference's (a maximum varies more than a norm) ...
WORST_MULTIPLE = 6.0
#: ... plus so many units of rounding of the output's type, so that a reference without error allows some.
NORM_ULPS = 8.0
WORST_ULPS = 64.0


@dataclass(frozen=True)
class Errors:
    """How far outputs lie from the oracle.

    Attributes:
        norm: norm of the difference over the norm of the oracle.
        worst: largest difference over the oracle's root mean square.
        not_finite: places where finite was expected and something else came, or the reverse, or another kind.
        where: the place of the worst difference (or of the first that is not finite), expected and got.
    """

    norm: float
    worst: float
    not_finite: int = 0
    where: str = ""

    def as_data(self) -> dict[str, Any]:
        """As JSON values."""
        return {"norm": self.norm, "worst": self.worst, "not_finite": self.not_finite, "where": self.where}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Errors:
        """From JSON values."""
        return cls(float(data["norm"]), float(data["worst"]), int(data["not_finite"]), str(data["where"]))


def combine(many: Sequence[Errors]) -> Errors:
    """The largest of each."""
    worst = max(many, key=lambda errors: errors.worst)
    return Errors(
        max(errors.norm for errors in many),
        worst.worst,
        max(errors.not_finite for errors in many),
        worst.where,
    )


@dataclass(frozen=True)
class Allowed:
    """What the gate allows for one probe."""

    norm: float
    worst: float

    @classmethod
    def by(cls, reference: Errors, dtype: torch.dtype) -> Allowed:
        """A multiple of the reference's own error, and a few units of rounding of the output's type."""
        unit = torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.0
        return cls(
            NORM_MULTIPLE * reference.norm + NORM_ULPS * unit,
            WORST_MULTIPLE * reference.worst + WORST_ULPS * unit,
        )

    def pass_(self, errors: Errors) -> bool:
        """True where the errors are allowed. NaN never is."""
        return errors.not_finite == 0 and errors.norm <= self.norm and errors.worst <= self.worst


def compare(
    oracle: Sequence[torch.Tensor], got: Sequence[torch.Tensor], native: Sequence[torch.Tensor] | None = None
) -> Errors:
    """The errors of `got`, the largest over all outputs.

    Args:
        oracle: outputs in float64 (or exact, for integers and booleans).
        got: what is judged; shapes equal the oracle's.
        native: the reference's outputs in its own precision: where it overflows and the oracle does not, any
            value is right; where both are not finite, `got` must be of the same kind.
    """
    natives = native if native is not None else [None] * len(oracle)
    return combine([_one(o, g, n) for o, g, n in zip(oracle, got, natives, strict=True)] or [Errors(0.0, 0.0)])


def _one(oracle: torch.Tensor, got: torch.Tensor, native: torch.Tensor | None) -> Errors:
    if oracle.numel() == 0:
        return Errors(0.0, 0.0)
    if not oracle.is_floating_point():
        wrong = int((oracle != got.to(oracle.dtype)).sum())
        return Errors(wrong / oracle.numel(), float(wrong > 0), 0, f"{wrong} of {oracle.numel()} differ")
    got = got.to(torch.float64)
    expected_finite, finite = torch.isfinite(oracle), torch.isfinite(got)
    compared = expected_finite & finite
    mismatched = expected_finite & ~finite
    if native is not None:
        native = native.to(torch.float64)
        compared = compared & torch.isfinite(native)
        mismatched = (mismatched & torch.isfinite(native)) | _other_kind(oracle, native, got)
    else:
        mismatched = mismatched | (~expected_finite & ~_same_kind(oracle, got))
    count = int(mismatched.sum())
    expected = torch.where(compared, oracle, 0.0)
    difference = torch.where(compared, got - oracle, 0.0)
    size = float(expected.norm())
    error = float(difference.norm())
    largest = float(difference.abs().max())
    root_mean_square = size / math.sqrt(max(int(compared.sum()), 1))
    place = mismatched if count else difference.abs() == largest
    return Errors(_ratio(error, size), _ratio(largest, root_mean_square), count, _describe(place, oracle, got))


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


def _describe(place: torch.Tensor, oracle: torch.Tensor, got: torch.Tensor) -> str:
    found = place.nonzero()
    if found.numel() == 0 and place.dim() > 0:
        return ""
    index = tuple(int(i) for i in found[0]) if place.dim() else ()
    return f"at {list(index)}: {float(got[index]):.6g}, right is {float(oracle[index]):.6g}"


def wrong_ranges(oracle: torch.Tensor, got: torch.Tensor, tolerance: float) -> str:
    """Which ranges of each dimension hold wrong elements: `dim 2: 32 to 255`, dimensions wholly wrong left out."""
    wrong = ~((got.to(torch.float64) - oracle).abs() <= tolerance) & ~_same_kind(oracle, got.to(torch.float64))
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
    share = float(wrong.double().mean())
    return ", ".join([f"{share:.0%} of the output", *parts])
