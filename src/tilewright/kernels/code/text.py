"""Text of emitted code: indented lines and unique names."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

#: Letters of the spatial dims in names, by their count.
LETTERS = {1: ("W",), 2: ("H", "W"), 3: ("D", "H", "W")}


class Lines:
    """Lines with an indentation that follows blocks."""

    def __init__(self, indent: int = 0) -> None:
        self._lines: list[str] = []
        self.indent = indent

    def add(self, line: str = "") -> None:
        """One line at the current indentation."""
        self._lines.append("    " * self.indent + line if line else "")

    def block(self, text: str) -> None:
        """Add the lines of a text at the current depth."""
        for line in text.splitlines():
            self.add(line)

    def open(self, line: str) -> None:
        """A line that opens a block."""
        self.add(line)
        self.indent += 1

    def close(self) -> None:
        """Leave a block."""
        self.indent -= 1

    def __str__(self) -> str:
        return "\n".join(self._lines)


class Names:
    """Unique Python names."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def copy(self) -> Names:
        """The same names taken, to go on from."""
        return Names(self._taken)

    def unique(self, wish: str) -> str:
        """`wish` as a name, with a number where it is taken."""
        base = re.sub(r"\W+", "_", wish).strip("_") or "value"
        if base[0].isdigit() or keyword.iskeyword(base):
            base = f"v_{base}"
        name, count = base, 2
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name


def shape_text(sizes: Iterable[str]) -> str:
    """A tuple display of sizes."""
    listed = list(sizes)
    return f"({listed[0]},)" if len(listed) == 1 else f"({', '.join(listed)})"


def signed(offset: int) -> str:
    """An offset that is added, as text; nothing for 0."""
    return f" + {offset}" if offset > 0 else f" - {-offset}" if offset else ""


def row_major(indices: Iterable[str], sizes: Iterable[str]) -> str:
    """Where an element lies, row-major: `(i * H + j) * W + k` for the sizes [D, H, W] (the first is not needed)."""
    text = ""
    for index, size in zip(indices, sizes, strict=True):
        outer = f"({text})" if " " in text else text
        text = f"{outer} * {size} + {index}" if text else index
    return text
