"""Everything, and nothing twice: for small spaces; and the model's word alone: for those who cannot measure much."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.search.strategies.strategy import Bounds, Option, Steps, asks, by_prior, fastest


def exhaustive(options: Sequence[Option], bounds: Bounds) -> Steps:
    """A few samples of every option within the bounds, in the model's order; then many of the fastest."""
    times: dict[str, float] = {}
    keys = [option.key for option in by_prior(options)][: bounds.measurements]
    for ask in asks(keys, bounds.scout, bounds.at_once):
        times.update((yield ask))
    for ask in asks(fastest(times, bounds.finalists), bounds.final, bounds.at_once):
        yield ask


def ranked_by_model(options: Sequence[Option], bounds: Bounds) -> Steps:
    """Only the finalists of the model's ranking are measured at all."""
    keys = [option.key for option in by_prior(options)][: min(bounds.finalists, bounds.measurements)]
    yield from asks(keys, bounds.final, bounds.at_once)
