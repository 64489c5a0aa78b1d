"""Successive halving: rounds of measurements in which the slower half drops out, the model's hopeless not admitted."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.search.strategies.strategy import Bounds, Option, Steps, asks, by_prior, fastest

#: Options are taken in by the model's order, so many at a time; a group that brings nothing near the best is the last.
_GROUP = 8
_NEAR = 1.10


def successive_halving(options: Sequence[Option], bounds: Bounds) -> Steps:
    """Groups by the model's order are scouted until a group adds nothing near the best; then halves, to the finalists.

    The order of the model decides who is looked at, never who wins.
    """
    keys = [option.key for option in by_prior(options)][: bounds.measurements]
    times: dict[str, float] = {}
    for first in range(0, len(keys), _GROUP):
        best_before = min(times.values(), default=float("inf"))
        group: dict[str, float] = {}
        for ask in asks(keys[first : first + _GROUP], bounds.scout, bounds.at_once):
            group.update((yield ask))
        times.update(group)
        if group and min(group.values()) > best_before * _NEAR:
            break
    left = fastest(times, max(bounds.finalists, len(times) // 2))
    while len(left) > 2 * bounds.finalists:
        again: dict[str, float] = {}
        for ask in asks(left, bounds.scout, bounds.at_once):
            again.update((yield ask))
        left = fastest({key: min(ms, times[key]) for key, ms in again.items()}, max(bounds.finalists, len(left) // 2))
    for ask in asks(left[: 2 * bounds.finalists], bounds.final, bounds.at_once):
        yield ask
