"""One output of a candidate against the oracle's: its errors, what is allowed of them, and what to say of a failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tilewright.gate.compare.errors import Allowed, Errors, compare_one, is_exact, wrong_ranges

#: Errors of outputs with fewer elements are luck as much as precision: the median of all probes counts too.
FEW = 4096
#: Own error from which on a reference has no correct digit in an output (the tail of a GELU at -1000, say): what is
#: left is noise, whose size is another one for another order of operations.
_NO_DIGIT, _OF_NOISE = 0.5, 16.0


@dataclass(frozen=True)
class Right:
    """What is right for one output.

    Attributes:
        exact: in float64 (float32 where it is very large); of integers the reference's own.
        native: in the reference's own precision; None where it is very large and all finite.
        dtype: of the reference's output.
        range: of an integer output, lowest and highest right values where rounding decides.
        errors: the reference's own.
        pool: median of them over all ordinary probes.
    """

    exact: torch.Tensor
    native: torch.Tensor | None
    dtype: torch.dtype
    range: tuple[torch.Tensor, torch.Tensor] | None
    errors: Errors
    pool: Errors


@dataclass(frozen=True)
class Compared:
    """How one output compares; `problem` is empty where it is right."""

    problem: str
    message: str
    errors: Errors
    allowed: Allowed
    reference: Errors

    @property
    def excess(self) -> float:
        """How far beyond what is allowed it lies."""
        if self.errors.not_finite:
            return float("inf")
        pairs = (
            (self.errors.norm, self.allowed.norm),
            (self.errors.worst, self.allowed.worst),
            (self.errors.bias, self.allowed.bias),
        )
        return max(error / limit if limit > 0 else float(error > 0) * 1e30 for error, limit in pairs)


def compared(right: Right, got: torch.Tensor) -> Compared:
    """How an output of the right shape and type compares."""
    if is_exact(right.dtype):
        return _whole(right, got)
    reference = right.errors
    if right.exact.numel() < FEW:
        few = right.pool
        reference = replace(
            reference, norm=max(reference.norm, few.norm), worst=max(reference.worst, few.worst),
            bias=max(reference.bias, few.bias),
        )  # fmt: skip
    allowed = Allowed.by(reference, right.dtype, right.exact.numel())
    if right.errors.norm >= _NO_DIGIT:
        allowed = Allowed(_OF_NOISE * allowed.norm, _OF_NOISE * allowed.worst)
    errors = compare_one(right.exact, got, right.native)
    if errors.not_finite:
        text = f"{errors.not_finite} outputs are not finite where they should be, or the reverse; {errors.where}"
        return Compared("correctness.not_finite", text, errors, allowed, reference)
    if allowed.pass_(errors):
        return Compared("", "", errors, allowed, reference)
    return Compared(
        "correctness.value", _value_text(right, got, errors, allowed, reference), errors, allowed, reference
    )


def _whole(right: Right, got: torch.Tensor) -> Compared:
    """Integers and booleans agree exactly, but where the reference's own rounding decides."""
    nothing = Errors(0.0, 0.0)
    exact = right.exact
    if right.range is not None:
        low, high = right.range
        whole = got.to(low.dtype)
        exact = torch.where((whole >= low) & (whole <= high), whole, exact.to(low.dtype)).to(exact.dtype)
    errors = compare_one(exact, got)
    if errors.norm == 0.0:
        return Compared("", "", errors, Allowed(0.0, 0.0), nothing)
    kind = str(right.dtype).removeprefix("torch.")
    text = f"of its {kind} output, which must agree exactly, {errors.where}"
    return Compared("correctness.value", text, errors, Allowed(0.0, 0.0), nothing)


def _value_text(right: Right, got: torch.Tensor, errors: Errors, allowed: Allowed, reference: Errors) -> str:
    exact = right.exact
    if errors.norm <= allowed.norm and errors.worst <= allowed.worst:
        return (
            f"its errors have a direction: {errors.bias:.2g} of the values on average, beyond what rounding's spread "
            f"explains, where {allowed.bias:.2g} is allowed (the reference's own is {reference.bias:.2g}); "
            f"{errors.where}"
        )
    finite = torch.where(torch.isfinite(exact), exact, 0).abs().double()
    size = float(finite.norm()) / max(exact.numel(), 1) ** 0.5
    wrong = wrong_ranges(exact, got, allowed.worst * size)
    return (
        f"relative error {errors.norm:.2g} where {allowed.norm:.2g} is allowed (the reference's own is "
        f"{reference.norm:.2g}); wrong: {wrong or 'spread over the output'}; {errors.where}"
    )


def worst_of(found: Sequence[Compared]) -> tuple[int, Compared]:
    """The number of the output that fails first and furthest, or of the one nearest to failing, and how it compares."""
    number = max(range(len(found)), key=lambda index: (bool(found[index].problem), found[index].excess))
    return number, found[number]
