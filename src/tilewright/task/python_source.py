"""Python source as given: parsed for its names, with errors that point at the user's file and line."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from tilewright.errors import SourceError, SourceLocation
from tilewright.values.syntax_tree import parse_tree


def location(path: Path | str | None, line: int | None = None, column: int | None = None) -> SourceLocation:
    """A place in the user's file, or in source that came from no file."""
    return SourceLocation("<source>" if path is None else str(path), line, column)


def parse_source(source: str, path: Path | str | None = None, first_line: int = 1) -> ast.Module:
    """The syntax tree of `source`.

    Args:
        source: Python source.
        path: where it is from, for messages.
        first_line: line of `path` where it starts.

    Raises:
        SourceError: it does not parse; the message has the file and line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in the user's string is no concern of ours
            return parse_tree(source.removeprefix("\ufeff"))
    except SyntaxError as error:
        line = (error.lineno or 1) + first_line - 1
        # A column of 0 means that the parser does not know it.
        where = location(path, line, error.offset or None)
        raise SourceError(f"the Python code does not parse: {error.msg}", where=where) from None
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise SourceError(f"the Python code does not parse: {reason}", where=location(path, first_line)) from None


def bound_names(tree: ast.Module) -> dict[str, int]:
    """Names that the module binds at its top level -> the line of the first binding.

    Definitions inside top-level `if` and `try` count.
    """
    names: dict[str, int] = {}
    for statement in _statements(tree.body):
        for name in _names_of(statement):
            names.setdefault(name, statement.lineno)
    return names


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those inside `if`, `try` and `with` included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            yield from _statements([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            handlers = [inner for handler in statement.handlers for inner in handler.body]
            yield from _statements([*statement.body, *handlers, *statement.orelse, *statement.finalbody])
        elif isinstance(statement, ast.With):
            yield from _statements(statement.body)


def _names_of(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.split(".")[0]
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def require_names(tree: ast.Module, names: Sequence[str], path: Path | str | None = None, first_line: int = 1) -> None:
    """Check that the module binds each of `names`; a star import may bind anything.

    Raises:
        SourceError: a name is missing; where there is a class, the message says which.
    """
    bound = bound_names(tree)
    if "*" in bound:
        return
    for name in names:
        if name in bound:
            continue
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        hint = f"it defines {', '.join(classes)}" if classes else None
        kind = "class" if name[:1].isupper() else "function"
        raise SourceError(f"the Python code defines no {kind} `{name}`", where=location(path, first_line), hint=hint)
