"""A strategy driven by a recording: what it would have found, and in how many measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilewright.search.strategies.strategy import Bounds, Option, Strategy, Times


@dataclass(frozen=True)
class RecordedTime:
    """One option's time as it was once measured: median, 20th and 80th percentile, milliseconds."""

    median_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Replayed:
    """What a strategy found.

    Attributes:
        best: key of the option with the least time in the answers with the final plan; empty where nothing was timed.
        options_measured: options that were measured at least once.
        measurements: answers in all.
    """

    best: str
    options_measured: int
    measurements: int


def replay(
    strategy: Strategy, options: Sequence[Option], recorded: Mapping[str, RecordedTime], bounds: Bounds
) -> Replayed:
    """Answer a strategy from `recorded`; an option that is not in it fails when it is measured.

    The final plan answers with the median; a scouting one with a value between the percentiles that depends on the
    option and on how often it was asked, and on nothing else.
    """
    steps = strategy(options, bounds)
    scouted: dict[str, float] = {}
    final: dict[str, float] = {}
    asked: list[str] = []
    try:
        ask = next(steps)
        while True:
            answers: dict[str, float] = {}
            for key in ask.keys:
                asked.append(key)
                if key in recorded:
                    is_final = ask.plan == bounds.final
                    answers[key] = recorded[key].median_ms if is_final else _scouted(recorded[key], key, asked)
                    (final if is_final else scouted)[key] = answers[key]
            ask = steps.send(answers)
    except StopIteration:
        pass
    found: Times = final or scouted
    return Replayed(min(found, key=lambda key: found[key], default=""), len(set(asked)), len(asked))


def _scouted(time: RecordedTime, key: str, asked: Sequence[str]) -> float:
    digest = hashlib.sha256(f"{key} {asked.count(key)}".encode()).digest()
    return time.low_ms + (time.high_ms - time.low_ms) * digest[0] / 255
