"""The strategies by name, and which one is taken for a space."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tilewright.errors import TilewrightError
from tilewright.search.strategies.exhaustive import exhaustive, ranked_by_model
from tilewright.search.strategies.halving import successive_halving
from tilewright.search.strategies.sampled import sampled
from tilewright.search.strategies.strategy import Strategy

STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "exhaustive": exhaustive,
        "successive_halving": successive_halving,
        "sampled": sampled,
        "ranked_by_model": ranked_by_model,
    }
)


def find_strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        TilewrightError: there is none.
    """
    if name not in STRATEGIES:
        raise TilewrightError(f"no strategy is named {name!r}", hint=f"strategies: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def choose(size: int, small: int, otherwise: str) -> str:
    """The strategy for a space: all of it where it has at most `small` options."""
    return "exhaustive" if size <= small else otherwise
