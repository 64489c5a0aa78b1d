"""Floats of a module, or among its arguments, that a captured graph only passes on: emitted code reads them anew.

While a module is captured, each such float is a `LinkedFloat`: a float with a value of its own, so that the same value
in the graph is known to be this attribute. One that the forward pass compares or computes with in Python is *used*:
the graph holds for its value alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.fx as torch_fx
from torch import nn

#: Relative step between the values: far above float64's resolution, far below float32's.
_STEP = 2.0**-40


class LinkedFloat(float):
    """A float that passes for `true`, and notes when Python does more with it than hand it on.

    Attributes:
        true: the float that it stands for.
        is_used: it was computed with, or compared with something else than a number.
        asked: how it compared with numbers, as conditions on `{}`: `{} > 0.0`, `not {} > 0.0`.
    """

    true: float
    is_used: bool
    asked: dict[str, None]

    @property
    def sentinel(self) -> float:
        """The value that it has in a graph."""
        return float.__add__(self, 0.0)

    def __new__(cls, value: float, true: float) -> LinkedFloat:
        """The float `value`, in the place of `true`."""
        made = super().__new__(cls, value)
        made.true, made.is_used, made.asked = true, False, {}
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (self.true,)

    def __deepcopy__(self, memo: dict[int, Any]) -> LinkedFloat:
        return self


_SIGNS = {"__lt__": "<", "__le__": "<=", "__gt__": ">", "__ge__": ">=", "__eq__": "==", "__ne__": "!="}


def _noting(name: str) -> Callable[..., Any]:
    plain = getattr(float, name)

    sign = _SIGNS.get(name)

    def method(self: LinkedFloat, *others: Any) -> Any:
        result = plain(self.true, *(other.true if isinstance(other, LinkedFloat) else other for other in others))
        if result is NotImplemented:
            return result
        if sign is not None and type(others[0]) in (int, float):
            self.asked[f"{'' if result else 'not '}{{}} {sign} {others[0]!r}"] = None
        else:
            self.is_used = True
        return result

    return method


for _name in (
    *("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__bool__", "__int__", "__float__", "__round__"),
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__pow__"),
    *("__rpow__", "__floordiv__", "__rfloordiv__", "__mod__", "__rmod__", "__divmod__", "__rdivmod__", "__neg__"),
    *("__pos__", "__abs__", "__trunc__", "__floor__", "__ceil__", "__hash__", "is_integer", "as_integer_ratio", "hex"),
):
    setattr(LinkedFloat, _name, _noting(_name))


@dataclass
class Links:
    """The linked floats of one capture.

    Attributes:
        floats: where each one stands -> the float; `("self", "act.slope")` for an attribute, `("argument", "gain")`.
    """

    floats: dict[tuple[str, str], LinkedFloat] = field(default_factory=dict)

    def add(self, kind: str, path: str, value: float) -> LinkedFloat:
        """Another float."""
        sentinel = value * (1.0 + _STEP * (len(self.floats) + 1))
        made = self.floats[kind, path] = LinkedFloat(sentinel, value)
        return made

    def argument(self, name: str, value: Any) -> Any:
        """An argument of the call as the forward pass is to see it: floats linked, all others as they are."""
        if not can_link(value):
            return value
        known = self.floats.get(("argument", name))
        return known if known is not None else self.add("argument", name, value)


def can_link(value: Any) -> bool:
    """True for a float that is told apart by its value. Rules of the algebra look for 0, 1 and -1."""
    return type(value) is float and math.isfinite(value) and value not in (0.0, 1.0, -1.0)


@contextlib.contextmanager
def linked_attributes(module: nn.Module, links: Links) -> Iterator[None]:
    """Put linked floats in the place of the float attributes of a module and its parts."""
    changed: list[tuple[nn.Module, str, float]] = []
    try:
        for path, child in module.named_modules():
            for name, value in list(vars(child).items()):
                if can_link(value):
                    changed.append((child, name, value))
                    vars(child)[name] = links.add("self", f"{path}.{name}" if path else name, value)
        yield
    finally:
        for child, name, value in changed:
            vars(child)[name] = value


def plain_numbers(graph: torch_fx.Graph, values: Mapping[float, float]) -> dict[float, int]:
    """Replace numbers in a graph, and turn linked floats into plain ones; returns how often each one is left.

    Args:
        graph: changed in place.
        values: number in the graph -> the number that it stands for.
    """
    counts: dict[float, int] = {}

    def replaced(item: Any) -> Any:
        if not isinstance(item, float):
            return item
        number = item.sentinel if isinstance(item, LinkedFloat) else item
        counts[number] = counts.get(number, 0) + 1
        return values.get(number, number)

    for node in graph.nodes:
        node.args = torch_fx.node.map_aggregate(node.args, replaced)
        node.kwargs = torch_fx.node.map_aggregate(node.kwargs, replaced)
    return counts
