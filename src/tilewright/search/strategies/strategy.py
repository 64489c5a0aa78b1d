"""What a strategy sees and says: options with a prior, asks for measurements, times as answers.

A strategy is a generator: it yields an `Ask` and is sent the `Times` of what was asked; it knows nothing of GPUs,
processes or sources. Whoever drives it may answer from a clock, a fleet, or a recording.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Option:
    """One candidate as a strategy sees it.

    Attributes:
        key: its identity.
        prior_ms: the model's time, milliseconds; infinite where the model has none.
        parameters: schedule parameter -> value; options with the same names differ in their values alone.
    """

    key: str
    prior_ms: float = math.inf
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    """How much a strategy may ask for.

    Attributes:
        measurements: options measured at most, however often each.
        scout, final: names of sampling plans: a few samples to tell the hopeless, many for those that count.
        finalists: options that get the final plan at least, if there are so many.
        at_once: options asked for together at most.
    """

    measurements: int
    scout: str = "scout"
    final: str = "quick"
    finalists: int = 3
    at_once: int = 16


@dataclass(frozen=True)
class Ask:
    """Options to measure in turns, and with which sampling plan."""

    keys: tuple[str, ...]
    plan: str


#: Key -> milliseconds, of those that could be measured.
Times = Mapping[str, float]

Steps = Generator[Ask, Times, None]
Strategy = Callable[[Sequence[Option], Bounds], Steps]


def by_prior(options: Sequence[Option]) -> list[Option]:
    """The options in the model's order; those of equal prior stay in the order in which they were proposed."""
    return sorted(options, key=lambda option: option.prior_ms)


#: The model may be wrong about one or two: what is far behind is told from the time of the option after them.
_RANK = 2


def far_behind_ms(priors_ms: Sequence[float], factor: float) -> float:
    """Modelled times above this are far behind; infinite where `factor` is 0, or where few options have a time.

    Args:
        priors_ms: modelled times of a batch, milliseconds.
        factor: how many times the third best is far.
    """
    known = sorted(time for time in priors_ms if math.isfinite(time))
    if not factor or len(known) <= _RANK:
        return math.inf
    return known[_RANK] * factor


def asks(keys: Sequence[str], plan: str, at_once: int) -> Steps:
    """Asks for `keys`, so many at a time: to be gone through, or to be handed on with `yield from`."""
    for first in range(0, len(keys), at_once):
        yield Ask(tuple(keys[first : first + at_once]), plan)


def fastest(times: Mapping[str, float], count: int) -> list[str]:
    """The `count` keys with the least times, the fastest first."""
    return sorted(times, key=lambda key: times[key])[:count]
