"""Python text as a syntax tree, one at a time: CPython 3.11's parser counts its depth for all threads together.

Two threads that parse at once can make it (seen with 3.11.7; CPython's issue 106905) raise `SystemError: AST
constructor recursion depth mismatch` on text that is well formed.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from typing import TypeVar

_Tree = TypeVar("_Tree", ast.Module, ast.Expression)

_ONE_AT_A_TIME = threading.Lock()
#: Libraries parse too, in threads of their own and without the lock.
_TRIES = 5


def parse_tree(text: str) -> ast.Module:
    """The syntax tree of a module's text.

    Raises:
        SyntaxError: it does not parse.
        ValueError: it holds null bytes.
    """
    return _alone(lambda: ast.parse(text))


def parse_expression(text: str) -> ast.Expression:
    """The syntax tree of one expression; raises what `parse_tree` does."""
    return _alone(lambda: ast.parse(text, mode="eval"))


def _alone(parse: Callable[[], _Tree]) -> _Tree:
    for _ in range(_TRIES - 1):
        try:
            with _ONE_AT_A_TIME:
                return parse()
        except SystemError:
            continue
    with _ONE_AT_A_TIME:
        return parse()
