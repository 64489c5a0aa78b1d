"""How a space of candidates is measured: a registry of strategies, each testable from recorded timings."""

from tilewright.search.strategies.registry import STRATEGIES, choose, find_strategy
from tilewright.search.strategies.strategy import Ask, Bounds, Option, Strategy, Times, far_behind_ms

__all__ = ["STRATEGIES", "Ask", "Bounds", "Option", "Strategy", "Times", "choose", "far_behind_ms", "find_strategy"]
