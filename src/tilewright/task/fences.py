"""Lines and fenced code blocks of Markdown-like text, as documents and replies have them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

_FENCE = re.compile(r"^ {0,3}(?P<ticks>`{3,})[ \t]*(?P<info>[^`]*)$")

#: Names that people give to a block of Python, lower case.
PYTHON_NAMES = frozenset({"python", "py", "python3"})


@dataclass(frozen=True)
class Fence:
    """One fenced block.

    Attributes:
        language: first word after the opening ticks, lower case; empty where there is none.
        start: index of the opening line.
        end: index one past the closing line, or past the last line where the block is never closed.
        closed: a closing line was found.
    """

    language: str
    start: int
    end: int
    closed: bool

    @property
    def body(self) -> slice:
        """The lines between the ticks."""
        return slice(self.start + 1, self.end - 1 if self.closed else self.end)

    @property
    def is_python(self) -> bool:
        """True where the block says that it is Python."""
        return self.language in PYTHON_NAMES


def split_lines(text: str) -> list[str]:
    r"""`text` cut after each `\n`, `\r\n` or `\r`, and nowhere else; joined they are `text` again."""
    return list(io.StringIO(text, newline=""))


def find_fences(lines: Sequence[str]) -> tuple[Fence, ...]:
    """The fenced blocks of `lines`, in order; a fence inside a block is part of the block.

    A block ends with a line of nothing but at least as many ticks as it began with.
    """
    found = []
    index = 0
    while index < len(lines):
        opening = _FENCE.match(lines[index].rstrip())
        if opening is None:
            index += 1
            continue
        words = opening["info"].split()
        end = _closing_line(lines, index + 1, len(opening["ticks"]))
        closed = end is not None
        stop = len(lines) if end is None else end + 1
        found.append(Fence(words[0].lower() if words else "", index, stop, closed))
        index = stop
    return tuple(found)


def _closing_line(lines: Sequence[str], start: int, ticks: int) -> int | None:
    for index in range(start, len(lines)):
        match = _FENCE.match(lines[index].rstrip())
        if match is not None and not match["info"] and len(match["ticks"]) >= ticks:
            return index
    return None


def fence_for(code: str) -> str:
    """Ticks long enough to hold `code`: three, or one more than the longest run at the start of a line."""
    longest = max((len(match[1]) for match in re.finditer(r"^ {0,3}(`{3,})", code, re.MULTILINE)), default=2)
    return "`" * (longest + 1)


def with_unix_newlines(text: str) -> str:
    r"""`text` with every line ending as `\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
