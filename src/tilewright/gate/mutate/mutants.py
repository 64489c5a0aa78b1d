"""All mutants of a source, and a sample of them that a seed repeats."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tilewright.gate.contract.syntax import Source
from tilewright.gate.mutate.edits import Text
from tilewright.gate.mutate.operators import OPERATORS
from tilewright.values.syntax_tree import parse_tree


@dataclass(frozen=True)
class Mutant:
    """A source with one change.

    Attributes:
        source: the changed file.
        operator: name in `OPERATORS`.
        line: of the change, from 1.
        before, after: the changed piece of text.
    """

    source: str
    operator: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        """One line for people."""
        return f"line {self.line}, {self.operator}: `{_short(self.before)}` -> `{_short(self.after)}`"


def all_mutants(source: str) -> tuple[Mutant, ...]:
    """Every mutant of the kernels and of the functions that launch them, in the order of the source.

    Texts that do not parse, or that mean the same as another's, are left out. Signatures, docstrings, and code that
    neither is a kernel nor launches one stay as they are.

    Raises:
        SyntaxError: the source does not parse.
    """
    text = Text(source)
    seen = {ast.dump(text.tree)}
    found = []
    for node in _nodes(source, text.tree):
        for name, operator in OPERATORS.items():
            for place, after in operator(node, text):
                changed = text.edited([text.replace(place, after)])
                try:
                    shape = ast.dump(parse_tree(changed))
                except SyntaxError:
                    continue
                if shape not in seen:
                    seen.add(shape)
                    found.append(Mutant(changed, name, place.lineno, text.of(place), after))
    return tuple(found)


def sample_mutants(source: str, count: int, seed: int) -> tuple[Mutant, ...]:
    """At most `count` mutants, every operator in turn, so that the frequent ones do not crowd out the rest."""
    generator = random.Random(seed)
    by_operator: dict[str, list[Mutant]] = {}
    for mutant in all_mutants(source):
        by_operator.setdefault(mutant.operator, []).append(mutant)
    for group in by_operator.values():
        generator.shuffle(group)
    names = sorted(by_operator)
    generator.shuffle(names)
    chosen: list[Mutant] = []
    while len(chosen) < count and any(by_operator.values()):
        for name in names:
            if by_operator[name] and len(chosen) < count:
                chosen.append(by_operator[name].pop())
    return tuple(chosen)


def _nodes(source: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes of the bodies of kernels, device helpers that are used, and functions that launch."""
    kernels = {function.name for function in Source.parse(source).functions}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        if (node.name in kernels and node.name in used) or _launches(node):
            for statement in node.body:
                if not _is_docstring(statement):
                    yield from _walk(statement)
            yield from (part for decorator in node.decorator_list for part in _walk(decorator))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """In the order of the source."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child)


def _launches(node: ast.FunctionDef) -> bool:
    return any(isinstance(part, ast.Call) and isinstance(part.func, ast.Subscript) for part in ast.walk(node))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _short(text: str, limit: int = 90) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[: limit - 3]}..."
