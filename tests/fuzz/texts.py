"""Damage: what happens to texts on their way, and what nobody would write, from a seed alone."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

#: Pieces that readers trip over.
_NASTY = (
    "", "\x00", "\r", "\r\n", "\n", "\ufeff", "\u2028", "\ud7ff", "é", "😀", "```", "```python\n", "~~~", "[",
    "]", "{", "}", '"', "'", "\\", "\\u0000", "#", "# ", "## ", "|", ":", ",", "NaN", "Infinity", "-Infinity",
    "1e999", "-1e999", "-0", "1" * 5000, "[" * 3000, "{" * 2000, '{"a":' * 1500, "(" * 500, "-" * 2000,
    "a" * 100_000, "null", "true", "0x", "1_0", "9223372036854775808", "-1", "1e-400", "4090", "RTX", "GPU",
    "[CURRENT CODE]", "[OPTIMIZATION STAGE]", "# Target GPU:", "import os; os.remove('x')", "__import__('os')",
    "class ModelNew", "def get_inputs", "%s%n", "../../etc/passwd", "\t", "$tensor", "$tuple", "$dict",
    "\x1b[2J", "\x00\x01\x02",
)  # fmt: skip

Damage = Callable[[str, random.Random, Sequence[str]], str]


def _place(text: str, generator: random.Random) -> int:
    return generator.randint(0, len(text))


def _span(text: str, generator: random.Random) -> tuple[int, int]:
    start = _place(text, generator)
    return start, min(len(text), start + int(generator.expovariate(1 / 40)))


def _insert(text: str, generator: random.Random, others: Sequence[str]) -> str:
    place = _place(text, generator)
    return text[:place] + generator.choice(_NASTY) + text[place:]


def _delete(text: str, generator: random.Random, others: Sequence[str]) -> str:
    start, end = _span(text, generator)
    return text[:start] + text[end:]


def _repeat(text: str, generator: random.Random, others: Sequence[str]) -> str:
    start, end = _span(text, generator)
    return text[:end] + text[start:end] * generator.choice((1, 2, 50)) + text[end:]


def _truncate(text: str, generator: random.Random, others: Sequence[str]) -> str:
    return text[: _place(text, generator)]


def _flip(text: str, generator: random.Random, others: Sequence[str]) -> str:
    if not text:
        return text
    place = generator.randrange(len(text))
    return (
        text[:place]
        + chr(generator.choice((generator.randrange(128), generator.randrange(0xD000))))
        + text[place + 1 :]
    )


def _swap_lines(text: str, generator: random.Random, others: Sequence[str]) -> str:
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return text
    first, second = generator.randrange(len(lines)), generator.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return "".join(lines)


def _drop_line(text: str, generator: random.Random, others: Sequence[str]) -> str:
    lines = text.splitlines(keepends=True)
    if lines:
        del lines[generator.randrange(len(lines))]
    return "".join(lines)


def _splice(text: str, generator: random.Random, others: Sequence[str]) -> str:
    other = generator.choice(others)
    return text[: _place(text, generator)] + other[_place(other, generator) :]


def _number(text: str, generator: random.Random, others: Sequence[str]) -> str:
    digits = [index for index, letter in enumerate(text) if letter.isdigit()]
    if not digits:
        return text
    place = generator.choice(digits)
    return (
        text[:place]
        + generator.choice(("-1", "0", "1e400", "99999999999999999999", "NaN", ".", "x"))
        + text[place + 1 :]
    )


_DAMAGES: tuple[Damage, ...] = (
    _insert, _delete, _repeat, _truncate, _flip, _flip, _swap_lines, _drop_line, _splice, _number,
)  # fmt: skip


#: Values that a field may hold where another is expected.
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**40, 2**70, 0.5, float("nan"), float("inf"),
    "", "x", "1", [], {}, [[]], [None], [1, [2]], {"$tuple": 3}, {"$dict": [1]}, {"$dict": [["a", 1]]}, {"$other": 1},
    {"$tensor": "out.0"}, {"$tensor": ["out.0"]}, {"$tensor": "out.0", "stride": [0, 0]},
    {"$tensor": "out.0", "stride": [2**40, 1]}, {"$tensor": "out.0", "stride": "abc"},
    {"$tensor": "out.0", "stride": [1]}, {"$tensor": "out.0", "stride": [-1, 1]},
)  # fmt: skip


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [place for key, item in inner for place in [(value, key), *_places(item)]]


def _structure(text: str, generator: random.Random) -> str:
    """JSON that parses and holds something else: a value replaced, left out, or doubled."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    for _ in range(generator.randint(1, 3)):
        places = _places(value)
        if not places:
            break
        container, key = generator.choice(places)
        what = generator.random()
        if what < 0.7:
            container[key] = copy.deepcopy(generator.choice(_VALUES))
        elif what < 0.85 or isinstance(container, dict):
            del container[key]
        else:
            container.insert(key, copy.deepcopy(container[key]))
    return json.dumps(value)


def damaged(seeds: Sequence[str], seed: int) -> str:
    """One of `seeds`, damaged between one and a few times; the same for the same seed."""
    generator = random.Random(seed)
    text = generator.choice(seeds)
    if text[:1] in {"{", "["} and generator.random() < 0.7:
        return _structure(text, generator)
    for _ in range(min(1 + int(generator.expovariate(0.7)), 12)):
        text = generator.choice(_DAMAGES)(text, generator, seeds)
        text = text[:400_000]
    return text
