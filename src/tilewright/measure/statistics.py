"""Samples of a time, summarised; gains; and the parent's own figure held against the child's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: A change below this is no gain and is reverted, percent.
MIN_GAIN_PERCENT = 2.0

#: The parent's figure may exceed the child's by this factor, and by this many milliseconds a call: the parent
#: sees what the host does for each call, which the child's events do not, but its time of a call does. Whatever else
#: the machine does may delay one of its readings by so many milliseconds.
CROSS_CHECK_FACTOR = 1.5
CROSS_CHECK_SLACK_MS = 0.25
CROSS_CHECK_CALL_SLACK_MS = 0.05
CROSS_CHECK_NOISE_MS = 20.0


@dataclass(frozen=True)
class Summary:
    """Samples of one subject.

    Attributes:
        median_ms, low_ms, high_ms: median, 20th and 80th percentile.
        samples: how many.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    samples: int


def summarise(samples_ms: Sequence[float]) -> Summary:
    """Median and percentiles of the samples.

    Raises:
        ValueError: there is none, or one is no positive finite number.
    """
    if not samples_ms:
        raise ValueError("no samples")
    if any(not math.isfinite(sample) or sample <= 0 for sample in samples_ms):
        raise ValueError("a sample is no positive, finite number of milliseconds")
    ordered = sorted(samples_ms)
    return Summary(percentile(ordered, 50), percentile(ordered, 20), percentile(ordered, 80), len(ordered))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """A percentile of sorted samples, with linear interpolation between neighbours."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def gain_percent(before_ms: float, after_ms: float) -> float:
    """How much less time `after` takes, percent of `before`; negative for a loss."""
    return (1.0 - after_ms / before_ms) * 100.0


def is_gain(before_ms: float, after_ms: float, min_percent: float = MIN_GAIN_PERCENT) -> bool:
    """True where the change is large enough to be kept."""
    return gain_percent(before_ms, after_ms) >= min_percent


@dataclass(frozen=True)
class Interval:
    """So many calls of a subject, timed by the parent's own clock from its `go` to the child's `done`."""

    label: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class CrossCheck:
    """The parent's figure for one subject beside the child's.

    Attributes:
        claimed_ms: the child's median, of the device's work or of a call: the one that allows less.
        observed_ms: (time of 2n calls - time of n calls) / n by the parent's clock: what both have in common
            (messages, the last synchronisation) falls out. It includes what the host does for each call.
        calls: n.
        passed: the child does not claim to be much faster than the parent saw.
    """

    claimed_ms: float
    observed_ms: float
    calls: int
    passed: bool


def cross_check(
    claimed_ms: float, intervals: Sequence[Interval], claimed_call_ms: float | None = None
) -> CrossCheck | None:
    """Hold claimed times against the parent's intervals over n and 2n calls; None where one is missing.

    Args:
        claimed_ms: of the device's work in a call.
        intervals: the parent's, of one subject.
        claimed_call_ms: of a call, calls made back to back, as the parent's are: little slack is needed.
    """
    by_calls: dict[int, list[float]] = {}
    for interval in intervals:
        by_calls.setdefault(interval.calls, []).append(interval.seconds)
    once = next((calls for calls in sorted(by_calls) if 2 * calls in by_calls), None)
    if once is None:
        return None
    # The least of repeated intervals: whatever else the machine did only adds to them.
    observed_ms = max(0.0, min(by_calls[2 * once]) - min(by_calls[once])) / once * 1e3
    allowed = {claimed_ms: claimed_ms * CROSS_CHECK_FACTOR + CROSS_CHECK_SLACK_MS + CROSS_CHECK_NOISE_MS / once}
    if claimed_call_ms is not None:
        slack = CROSS_CHECK_CALL_SLACK_MS + CROSS_CHECK_NOISE_MS / once
        allowed[claimed_call_ms] = claimed_call_ms * CROSS_CHECK_FACTOR + slack
    claim = min(allowed, key=lambda one: allowed[one])
    return CrossCheck(claim, observed_ms, once, observed_ms <= allowed[claim])
