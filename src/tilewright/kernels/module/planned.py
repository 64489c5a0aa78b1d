"""The part of an emitted file that watches the module: what it was planned for, as text, and the code that compares."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from tilewright.graph import watched
from tilewright.kernels.code.text import Lines
from tilewright.kernels.module import replay

_WIDTH = 120

#: Stands in a plan for any float: kernels are given it.
ANY_FLOAT = float


def watched_source() -> str:
    """Source of `Watched` and what it needs."""
    source = inspect.getsource(watched)
    return source[source.index("ABSENT = ") :].strip("\n")


def replay_sources() -> tuple[str, str]:
    """Source of the decorator of kernels, and of what stands behind them: the decorator of wrappers and its parts."""
    source = inspect.getsource(replay)
    source = source[source.index("\nRECORDS = ") :].replace("  # noqa: N801", "")
    first, _, second = source.partition("\nALIGNMENT = ")
    return first.strip("\n"), f"ALIGNMENT = {second}".strip("\n")


def plan_text(reads: Mapping[str, Mapping[str, Any]], numbers: Iterable[str]) -> str:
    """`PLANNED`: what was read of each part of the module.

    Args:
        reads: path of a part -> what was read of it -> its plain value.
        numbers: paths of floats that kernels are given, whatever they are.
    """
    given = set(numbers)
    lines = Lines()
    lines.add("#: What the forward pass reads of each part of the module, as it was when the kernels were planned.")
    lines.open("PLANNED = {")
    for path, names in reads.items():
        prefix = f"{path}." if path else ""
        items = [
            f"{_text(name)}: {_text(ANY_FLOAT if prefix + name in given else value)}" for name, value in names.items()
        ]
        _add_wrapped(lines, f"{_text(path)}: {{", items, "},")
    lines.close()
    lines.add("}")
    return str(lines)


def _add_wrapped(lines: Lines, opening: str, items: list[str], closing: str) -> None:
    """Items between brackets: on one line where they fit, else on as few lines of their own as hold them."""
    whole = f"{opening}{', '.join(items)}{closing}"
    if len(whole) + 4 * lines.indent <= _WIDTH:
        lines.add(whole)
        return
    lines.open(opening)
    row = ""
    for item in items:
        if row and len(row) + len(item) + 4 * lines.indent + 2 > _WIDTH:
            lines.add(row.rstrip())
            row = ""
        row += f"{item}, "
    lines.add(row.rstrip())
    lines.close()
    lines.add(closing)


def _text(value: Any) -> str:
    """A plain value, or a plan, as Python."""
    if value is ...:
        return "..."
    if value is ANY_FLOAT:
        return "float"
    if isinstance(value, str):
        return f'"{value}"' if repr(value) == f"'{value}'" else repr(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(key)}: {_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, tuple):
        listed = ", ".join(map(_text, value))
        return f"({listed},)" if len(value) == 1 else f"({listed})"
    return repr(value)


def widened(first: Any, second: Any) -> Any:
    """A plan that both plain values fit: `...` where they differ."""
    if type(first) is dict and type(second) is dict and [*first] == [*second]:
        return {key: widened(first[key], second[key]) for key in first}
    if type(first) is tuple and type(second) is tuple and len(first) == len(second):
        return tuple(map(widened, first, second))
    return first if watched.fits(first, second) else ...
