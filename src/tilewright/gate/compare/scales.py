"""What of one output's values decides how errors are weighed: fill values apart from the rest, and bias of errors."""

from __future__ import annotations

import math

import torch

#: Values that are so many times larger than all others, and nearly equal among themselves, are a fill (-1e9, say).
_FILL, _NEARLY, _MOST_FILLS = 1e3, 1e-2, 4
#: Outputs with more elements are looked at in steps.
_LOOKED_AT = 1 << 22
#: Elements that a bias is looked for among, bins of them by value, and elements of a bin at least.
_SAMPLE, _BINS, _BIN = 1 << 17, 64, 64
#: A mean error is a bias beyond so many standard errors (more where few elements are all that is known of those) ...
_SURE, _SURE_OF_FEW = 4.0, 16.0
#: ... on the scale of a bin's values, and not below this share of the whole output's.
_SMALLEST_SCALE = 1e-3


def fill_bounds(values: torch.Tensor) -> list[float]:
    """Magnitudes between fill values and the rest, ascending; empty where all is of one scale.

    A mask's -1e9 would set the scale of everything, and any score would be right beside it. What is filled, and what
    is not, is judged on its own scale.
    """
    looked_at = values.reshape(-1)[:: 1 + values.numel() // _LOOKED_AT]
    sizes = (looked_at if looked_at.is_complex() else looked_at.double()).abs().double()
    sizes = sizes[torch.isfinite(sizes) & (sizes > 0)]
    bounds: list[float] = []
    while sizes.numel() > 2 and len(bounds) < _MOST_FILLS:
        largest = float(sizes.max())
        near = sizes >= 0.5 * largest
        rest = sizes[~near]
        if int(near.sum()) < 2 or rest.numel() == 0 or largest < _FILL * float(rest.max()):
            break
        if float(sizes[near].min()) < (1.0 - _NEARLY) * largest:
            break
        bounds.insert(0, math.sqrt(largest) * math.sqrt(float(rest.max())))
        sizes = rest
    return bounds


def judges_bias(dtype: torch.dtype) -> bool:
    """Whether rounding to this type is coarse enough to hide a wrong formula: 16 bits and fewer."""
    return dtype.is_floating_point and torch.finfo(dtype).eps > 1e-4


def bias(exact: torch.Tensor, got: torch.Tensor) -> float:
    """The largest mean error of elements of about one value, and of all, that rounding's spread does not explain.

    Rounding errors have no direction: among n elements their mean is the spread over the root of n. A factor (1.02),
    another formula (the tanh form of a GELU) or another divisor has one. Relative to those elements' own size.

    Args:
        exact, got: flat, in float64, of the same length.
    """
    step = 1 + exact.numel() // _SAMPLE
    exact, got = exact[::step], got[::step]
    both = torch.isfinite(exact) & torch.isfinite(got)
    exact, error = exact[both], got[both] - exact[both]
    size = float(exact.square().mean().sqrt()) if exact.numel() else 0.0
    if exact.numel() < 2 or size == 0.0:
        return 0.0
    # The gain: the slope of the error over the value.
    weight = exact.square().sum()
    slope = float((error * exact).sum() / weight)
    noise = float(((error - slope * exact) * exact).square().sum().sqrt() / weight)
    largest = max(0.0, abs(slope) - _sure(exact.numel()) * noise)
    bins = min(_BINS, exact.numel() // _BIN)
    if bins < 2:
        return largest
    order = exact.argsort()
    length = exact.numel() // bins
    values, errors = (item[order][: bins * length].reshape(bins, length) for item in (exact, error))
    scale = values.square().mean(dim=1).sqrt().clamp_min(_SMALLEST_SCALE * size)
    spread = errors.std(dim=1) / math.sqrt(length)
    sure = (errors.mean(dim=1).abs() - _sure(length) * spread) / scale
    return max(largest, float(sure.max()))


def _sure(count: int) -> float:
    return _SURE + _SURE_OF_FEW / math.sqrt(count)
