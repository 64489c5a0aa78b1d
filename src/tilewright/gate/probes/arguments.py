"""Arguments that are no tensors and no sizes: numbers, flags and words of `forward`, options of the constructor."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tilewright.gate.reference.subject import Subject

#: Words that stand for one another in PyTorch's own interfaces.
_WORDS = (
    ("mean", "sum", "none"),
    ("none", "tanh"),
    ("relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu", "elu"),
    ("zeros", "reflect", "replicate", "circular"),
    ("constant", "reflect", "replicate"),
    ("nearest", "bilinear", "bicubic"),
    ("fan_in", "fan_out"),
)
#: Other words are tried at most, and other values of one argument are used.
_MOST_WORDS, _USED = 12, 2
#: Words longer than this are messages.
_LONG = 24


def plain_values(tree: Any) -> list[Any]:
    """The leaves of a tree that are no tensors, in order."""
    if isinstance(tree, torch.Tensor):
        return []
    if isinstance(tree, Mapping):
        return [value for item in tree.values() for value in plain_values(item)]
    if isinstance(tree, list | tuple):
        return [value for item in tree for value in plain_values(item)]
    return [tree]


def with_values(tree: Any, values: Mapping[int, Any]) -> Any:
    """The tree with some of its plain leaves replaced, by their number."""
    count = iter(range(1 << 30))

    def change(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return item
        if isinstance(item, Mapping):
            return {key: change(value) for key, value in item.items()}
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return tuple(change(value) for value in item)
        if isinstance(item, list | tuple):
            return type(item)(change(value) for value in item)
        return values.get(next(count), item)

    return change(tree) if values else tree


def others(value: Any, words: Sequence[str]) -> list[Any]:
    """Other values that may stand in the place of one, the most telling first; empty where none is known.

    Args:
        value: a number, a flag or a word.
        words: that the source knows.
    """
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [other for other in (value + 1, 2 * value, value - 1) if other != value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return [1.0]
        sign = math.copysign(1.0, value)
        # Far enough to be seen where it is added to something (an epsilon), and where something is multiplied by it.
        return [value * 1.7 + 0.1 * sign, value * 0.6, 1.0 - value] if value else [0.25, 1.0]
    if isinstance(value, str):
        alike = [word for family in _WORDS if value in family for word in family]
        return [word for word in dict.fromkeys((*words, *alike)) if word != value][:_MOST_WORDS]
    return []


def words_of(source: str) -> list[str]:
    """Words that a source compares with, or keeps under keys: what an argument may be."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = list(node.keys)
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        for part in parts:
            items = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
            found += [i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)]
    return [word for word in dict.fromkeys(found) if 0 < len(word) <= _LONG and " " not in word]


def full_arguments(subject: Subject) -> tuple[Any, ...] | None:
    """The constructor's arguments with the defaults of those that were not given, as far as they go by position."""
    own = subject.own_arguments
    if own is None:
        return None
    try:
        parameters = list(inspect.signature(type(subject.build(own, "meta")).__init__).parameters.values())[1:]
    except (TypeError, ValueError):
        return own
    found = list(own)
    for parameter in parameters[len(own) :]:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is parameter.empty:
            break
        found.append(parameter.default)
    return tuple(found)


def variations(
    values: Sequence[Any], skipped: frozenset[int], words: Sequence[str], accepted: Callable[[int, Any], bool]
) -> list[tuple[int, Any]]:
    """(position, other value) for each value that has others which are accepted.

    Args:
        values: of the arguments.
        skipped: positions that are left as they are.
        words: that the source knows.
        accepted: whether the reference takes a value at a position.
    """
    found: list[tuple[int, Any]] = []
    for position, value in enumerate(values):
        if position in skipped:
            continue
        taken = 0
        for other in others(value, words):
            if taken < (_USED if isinstance(value, str) else 1) and accepted(position, other):
                found.append((position, other))
                taken += 1
    return found
