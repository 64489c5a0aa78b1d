"""Small edits of a source text, at the places that its syntax tree names."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tilewright.values.syntax_tree import parse_tree


@dataclass(frozen=True)
class Edit:
    """Replaces the bytes from `start` to `end` of the source's UTF-8 text by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Text:
    """A source and its tree, with the byte offsets of nodes.

    Attributes:
        source: one Python file that parses.
    """

    source: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return parse_tree(self.source)

    @cached_property
    def _data(self) -> bytes:
        return self.source.encode()

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self._data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return starts

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        """Byte offsets of a node's text."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def of(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        """A node's text, as written."""
        start, end = self.span(node)
        return self._data[start:end].decode()

    def operand(self, node: ast.expr) -> str:
        """A node's text, in brackets where it stands beside an operator."""
        plain = isinstance(node, ast.Name | ast.Constant | ast.Call | ast.Attribute | ast.Subscript)
        return self.of(node) if plain else f"({self.of(node)})"

    def replace(self, node: ast.expr | ast.stmt | ast.keyword, text: str) -> Edit:
        """The edit that puts `text` in the place of a node."""
        start, end = self.span(node)
        return Edit(start, end, text)

    def edited(self, edits: Sequence[Edit]) -> str:
        """The source after edits that do not overlap."""
        data = self._data
        for edit in sorted(edits, key=lambda one: one.start, reverse=True):
            data = data[: edit.start] + edit.text.encode() + data[edit.end :]
        return data.decode()
