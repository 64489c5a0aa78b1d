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


#: Elements that are compared at once: large outputs are gone through in pieces.
_PIECE = 1 << 24


@dataclass
class _Sums:
    """What the pieces of one output add up to."""

    error: float = 0.0
    size: float = 0.0
    compared: int = 0
    largest: float = 0.0
    worst_at: int = 0
    mismatched: int = 0
    first_mismatch: int = 0


def _one(oracle: torch.Tensor, got: torch.Tensor, native: torch.Tensor | None) -> Errors:
    if oracle.numel() == 0:
        return Errors(0.0, 0.0)
    if not oracle.is_floating_point():
        wrong = int((oracle != got.to(oracle.dtype)).sum())
        return Errors(wrong / oracle.numel(), float(wrong > 0), 0, f"{wrong} of {oracle.numel()} differ")
    flat = oracle.reshape(-1), got.reshape(-1), None if native is None else native.reshape(-1)
    sums = _Sums()
    device = where_to_compare(oracle)
    for start in range(0, oracle.numel(), _PIECE):
        piece = [
            None if values is None else values[start : start + _PIECE].to(device, torch.float64) for values in flat
        ]
        assert piece[0] is not None
        assert piece[1] is not None
        _add_piece(sums, start, piece[0], piece[1], piece[2])
    root_mean_square = math.sqrt(sums.size / max(sums.compared, 1))
    place = sums.first_mismatch if sums.mismatched else sums.worst_at
    return Errors(
        _ratio(math.sqrt(sums.error), math.sqrt(sums.size)),
        _ratio(sums.largest, root_mean_square),
        sums.mismatched,
        _describe(place, oracle, got),
    )


def where_to_compare(values: torch.Tensor) -> torch.device:
    """Where large tensors are gone through: on the GPU where there is one, whose float64 is the host's."""
    if values.is_cuda or values.numel() < _PIECE // 4 or not torch.cuda.is_available():
        return values.device
    return torch.device("cuda")


def _add_piece(sums: _Sums, start: int, oracle: torch.Tensor, got: torch.Tensor, native: torch.Tensor | None) -> None:
    expected_finite, finite = torch.isfinite(oracle), torch.isfinite(got)
    compared = expected_finite & finite
    mismatched = expected_finite & ~finite
    if native is not None:
        native_finite = torch.isfinite(native)
        compared = compared & native_finite
        mismatched = (mismatched & native_finite) | _other_kind(oracle, native, got)
    else:
        mismatched = mismatched | (~expected_finite & ~_same_kind(oracle, got))
    difference = torch.where(compared, got - oracle, 0.0)
    sums.size += float(torch.where(compared, oracle, 0.0).square().sum())
    sums.error += float(difference.square().sum())
    sums.compared += int(compared.sum())
    largest, at = difference.abs().max(dim=0)
    if float(largest) > sums.largest:
        sums.largest, sums.worst_at = float(largest), start + int(at)
    count = int(mismatched.sum())
    if count and not sums.mismatched:
        sums.first_mismatch = start + int(mismatched.nonzero()[0])
    sums.mismatched += count


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
    return f"at {index}: {float(got[at]):.6g}, right is {float(oracle[at]):.6g}"


def wrong_ranges(oracle: torch.Tensor, got: torch.Tensor, tolerance: float) -> str:
    """Which ranges of each dimension hold wrong elements: `dim 2: 32 to 255`, dimensions wholly wrong left out."""
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
