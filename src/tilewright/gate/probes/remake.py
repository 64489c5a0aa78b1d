"""The task's own inputs at other sizes: `get_inputs` is run again with its numbers changed.

So what the task makes keeps its structure: indices stay within a table that shrinks, offsets end where their rows do,
a triangle stays one. Where that cannot be done, inputs are drawn from the task's own values (`draws`).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tilewright.gate.reference.subject import leaves
from tilewright.task import module_source
from tilewright.task.task import InputSpec, ModuleSource

#: (which tensor of the inputs, which of its dimensions), as in `planning`.
Member = tuple[int, int]

#: Numbers of the source that are looked at, at most.
_MOST = 48
#: Inputs with more elements are not made to see what a number does, where that needs values.
_REAL = 1 << 22


@dataclass(frozen=True)
class Number:
    """A whole number in the source: where it stands, and which sizes of the inputs follow it."""

    value: int
    line: int
    start: int
    stop: int
    drives: frozenset[Member] = frozenset()


@dataclass
class Remaker:
    """Makes the inputs of a source at other sizes.

    Attributes:
        source: whose inputs.
        shapes: of each tensor among its own inputs.
    """

    source: ModuleSource
    shapes: Sequence[tuple[int, ...]]
    _numbers: list[Number] | None = None
    _changed: dict[Any, ModuleSource | None] = field(default_factory=dict)

    def inputs(self, sizes: Mapping[Member, int], constants: Mapping[int, int], seed: int) -> list[Any] | None:
        """Inputs whose named dimensions have these sizes, on the CPU; None where the source cannot make them.

        Args:
            sizes: dimensions that change.
            constants: numbers of the constructor that change, old to new: indices may be bounded by them.
            seed: of the draw.
        """
        key = tuple(sorted(sizes.items())), tuple(sorted(constants.items()))
        if key not in self._changed:
            self._changed[key] = self._changed_source(sizes, constants)
        changed = self._changed[key]
        if changed is None:
            return None
        found = _made(changed, seed)
        wanted = [_resized(index, shape, sizes) for index, shape in enumerate(self.shapes)]
        if found is None or [tuple(leaf.shape) for leaf in leaves(found)] != wanted:
            self._changed[key] = None
            return None
        return found

    def _changed_source(self, sizes: Mapping[Member, int], constants: Mapping[int, int]) -> ModuleSource | None:
        bounds = self.bounds(sizes, constants)
        if self.source.pickled is not None:
            return None
        if self.source.inputs is not None:
            return self._changed_specs(sizes, bounds)
        if self._numbers is None:
            self._numbers = self._find_numbers()
        edits: list[tuple[Number, int]] = []
        for number in self._numbers:
            goals = {sizes.get(member, number.value) for member in number.drives}
            if len(goals) > 1:
                return None
            goal = goals.pop() if goals else bounds.get(number.value, number.value)
            if goal != number.value:
                edits.append((number, goal))
        return replace(self.source, source=_edited(self.source.source, edits))

    def bounds(self, sizes: Mapping[Member, int], constants: Mapping[int, int]) -> dict[int, int]:
        """Old size -> the smallest new one, where it shrinks: what was drawn below the old stays below the new."""
        bounds: dict[int, int] = {}
        for (leaf, dim), size in sizes.items():
            old = self.shapes[leaf][dim]
            bounds[old] = min(bounds.get(old, old), size)
        for old, new in constants.items():
            bounds[old] = min(bounds.get(old, old), new)
        return bounds

    def _changed_specs(self, sizes: Mapping[Member, int], bounds: Mapping[int, int]) -> ModuleSource | None:
        specs: list[InputSpec] = []
        index = 0
        for spec in self.source.inputs or ():
            if spec.filler == "literal":
                specs.append(spec)
                continue
            if spec.filler == "arange":
                return None
            shape = _resized(index, tuple(spec.shape), sizes)
            high = spec.high
            if spec.filler == "randint" and type(high) is int:
                high = max(bounds.get(high, high), int(spec.low) + 1)
            specs.append(replace(spec, shape=shape, high=high))
            index += 1
        return replace(self.source, inputs=tuple(specs))

    def _find_numbers(self) -> list[Number]:
        interesting = {size for shape in self.shapes for size in shape} | set(_whole(self.source))
        found = []
        for number in _numbers_of(self.source.source)[:_MOST]:
            if number.value in interesting and number.value > 1:
                number = replace(number, drives=self._driven(number))
            found.append(number)
        return found

    def _driven(self, number: Number) -> frozenset[Member]:
        """The dimensions that take another size with the number, and that have its value."""
        few = sum(_count(shape) for shape in self.shapes) <= _REAL
        for other in (number.value + 1, number.value * 2):
            changed = replace(self.source, source=_edited(self.source.source, [(number, other)]))
            for device in ("meta", "cpu") if few else ("meta",):
                made = _made(changed, 0, device)
                if made is None:
                    continue
                shapes = [tuple(leaf.shape) for leaf in leaves(made)]
                if len(shapes) != len(self.shapes):
                    continue
                return frozenset(
                    (leaf, dim)
                    for leaf, (before, after) in enumerate(zip(self.shapes, shapes, strict=True))
                    if len(before) == len(after)
                    for dim in range(len(before))
                    if after[dim] == other and before[dim] == number.value
                )
        return frozenset()


def _made(source: ModuleSource, seed: int, device: str = "cpu") -> list[Any] | None:
    try:
        return module_source.make_inputs(source, seed=seed, device=device)
    except Exception:
        return None


def _resized(index: int, shape: tuple[int, ...], sizes: Mapping[Member, int]) -> tuple[int, ...]:
    return tuple(sizes.get((index, dim), size) for dim, size in enumerate(shape))


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _whole(source: ModuleSource) -> list[int]:
    """Whole numbers among the constructor's arguments."""
    try:
        return [item for item in module_source.init_args(source) if type(item) is int]
    except Exception:
        return []


def _numbers_of(text: str) -> list[Number]:
    """The whole numbers that `get_inputs` reads: in it, in functions that it calls, in names of the module."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
            names = [name.id for name in ast.walk(statement.targets[0]) if isinstance(name, ast.Name)]
            values |= dict.fromkeys(names, statement.value)
    roots: list[ast.AST] = [functions["get_inputs"]] if "get_inputs" in functions else []
    seen: dict[int, ast.AST] = {}
    while roots:
        root = roots.pop()
        if id(root) in seen:
            continue
        seen[id(root)] = root
        for node in ast.walk(root):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                roots += [item for item in (functions.get(node.id), values.get(node.id)) if item is not None]
    return [number for root in seen.values() for number in _literals(root)]


def _literals(root: ast.AST) -> list[Number]:
    return [
        Number(node.value, node.lineno, node.col_offset, node.end_col_offset)
        for node in ast.walk(root)
        if isinstance(node, ast.Constant)
        and type(node.value) is int
        and node.end_col_offset is not None
        and node.end_lineno == node.lineno
    ]


def _edited(text: str, edits: Sequence[tuple[Number, int]]) -> str:
    """The text with numbers replaced; columns are counted in bytes of UTF-8."""
    lines = text.split("\n")
    place: Callable[[tuple[Number, int]], tuple[int, int]] = lambda edit: (edit[0].line, edit[0].start)  # noqa: E731
    for number, value in sorted(edits, key=place, reverse=True):
        line = lines[number.line - 1].encode()
        lines[number.line - 1] = (line[: number.start] + str(value).encode() + line[number.stop :]).decode()
    return "\n".join(lines)


def as_meta(inputs: Sequence[Any]) -> list[tuple[int, ...]]:
    """The shape of each tensor among inputs."""
    return [tuple(leaf.shape) for leaf in leaves(list(inputs)) if isinstance(leaf, torch.Tensor)]
