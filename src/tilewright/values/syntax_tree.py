"""Python text as a syntax tree, one at a time: CPython 3.11's parser counts its depth for all threads together."""

from __future__ import annotations

import ast
import threading

_ONE_AT_A_TIME = threading.Lock()
#: Libraries parse too, in threads of their own and without the lock.
_TRIES = 5


def parse_tree(text: str) -> ast.Module:
    """The syntax tree of a module's text.

    Two threads that parse at once can make CPython (seen with 3.11.7; its issue 106905) raise `SystemError: AST
    constructor recursion depth mismatch` on text that is well formed.

    Raises:
        SyntaxError: it does not parse.
        ValueError: it holds null bytes.
    """
    for _ in range(_TRIES - 1):
        try:
            with _ONE_AT_A_TIME:
                return ast.parse(text)
        except SystemError:
            continue
    with _ONE_AT_A_TIME:
        return ast.parse(text)
