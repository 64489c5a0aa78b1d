"""The host's side of a launch: where its arguments come from in the function around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from tilewright.proposers.retune.trees import ancestors, dotted_name, names_in, walk
from tilewright.proposers.retune.view import LaunchSite, View


@dataclass(frozen=True)
class Reaching:
    """A binding of a name that may reach a launch: its value, and whether it is always taken."""

    value: cst.BaseExpression | None
    is_certain: bool


@dataclass(frozen=True)
class HostScope:
    """Names as one launch sees them."""

    view: View
    site: LaunchSite

    def reaching(self, name: str) -> list[Reaching]:
        """The bindings of a name before the launch, the nearest first, back to the first that is certain.

        A loop around the launch, a default of the function's parameter and a module constant count too.
        """
        found: list[Reaching] = []
        current: cst.CSTNode = self.site.call
        for outer in ancestors(self.site.call, self.view.parents):
            if isinstance(outer, cst.IndentedBlock | cst.Module):
                for statement in reversed(_before(outer, current)):
                    for binding in _bindings(statement, name):
                        found.append(binding)
                        if binding.is_certain:
                            return found
            if isinstance(outer, cst.FunctionDef):
                found += self._default(outer, name)
                if found and found[-1].is_certain:
                    return found
            current = outer
        return found

    def _default(self, function: cst.FunctionDef, name: str) -> list[Reaching]:
        """The default of a parameter, if no call in the module gives that parameter another value."""
        for position, parameter in enumerate(function.params.params):
            if parameter.name.value != name:
                continue
            if parameter.default is None or self._is_given(function.name.value, name, position):
                return [Reaching(None, True)]
            return [Reaching(parameter.default, True)]
        return []

    def _is_given(self, function: str, name: str, position: int) -> bool:
        for node in walk(self.view.module):
            if not (isinstance(node, cst.Call) and dotted_name(node.func).split(".")[-1] == function):
                continue
            if len(node.args) > position or any(
                arg.star or (arg.keyword is not None and arg.keyword.value == name) for arg in node.args
            ):
                return True
        return False

    def certain(self, name: str) -> cst.BaseExpression | None:
        """The one value of a name at the launch, if there is one."""
        found = self.reaching(name)
        return found[0].value if len(found) == 1 and found[0].is_certain else None

    def size_literal(self, value: cst.BaseExpression) -> cst.Integer | None:
        """The literal that sets a tile's size: `64`, `min(..., 64)`, or what a name was last given so."""
        if isinstance(value, cst.Integer):
            return value
        if isinstance(value, cst.Name):
            found = self.reaching(value.value)
            certain = found[-1] if found and found[-1].is_certain else None
            return self.size_literal(certain.value) if certain is not None and certain.value is not None else None
        if isinstance(value, cst.Call) and dotted_name(value.func) == "min":
            literals = [arg.value for arg in value.args if isinstance(arg.value, cst.Integer)]
            return literals[0] if len(literals) == 1 else None
        return None

    def _spelled(self, node: cst.CSTNode, depth: int) -> Iterator[cst.CSTNode]:
        yield node
        if depth > 6:
            return
        for name in names_in(node):
            local = self._local_function(name)
            if local is not None:
                yield local.body
            for binding in self.reaching(name):
                if binding.value is not None:
                    yield from self._spelled(binding.value, depth + 1)

    def _local_function(self, name: str) -> cst.FunctionDef | None:
        holder = self.site.function.body if self.site.function is not None else self.view.module
        for node in walk(holder):
            if isinstance(node, cst.FunctionDef) and node.name.value == name:
                return node
        return None

    def grid_follows(self, value: cst.BaseExpression, tile: str) -> bool:
        """Whether the grid is computed from the tile's size, by the launch's own name for it or from `meta[...]`."""
        nodes = list(self._spelled(self.site.grid, 0))
        for node in nodes:
            if any(isinstance(part, cst.SimpleString) and part.evaluated_value == tile for part in walk(node)):
                return True
        return isinstance(value, cst.Name) and any(value.value in names_in(node) for node in nodes)

    def grid_literals(self, size: cst.Integer) -> list[cst.Integer]:
        """The literals of the same value in the grid, where each is what a dimension is divided by, rounded up."""
        found: list[cst.Integer] = []
        for node in self._spelled(self.site.grid, 0):
            for part in walk(node):
                if isinstance(part, cst.Integer) and part.value == size.value:
                    if not self._rounds_up(part):
                        return []
                    found.append(part)
        return found

    def _rounds_up(self, literal: cst.Integer) -> bool:
        """The second argument of `cdiv`."""
        arg = self.view.parents[literal]
        call = self.view.parents.get(arg)
        if not (isinstance(arg, cst.Arg) and isinstance(call, cst.Call)):
            return False
        return dotted_name(call.func).endswith("cdiv") and len(call.args) == 2 and call.args[1] is arg

    def axis(self, index: int) -> cst.BaseExpression | None:
        """One entry of the grid, where the grid is a tuple or a lambda or a local function that returns one."""
        entries = self.axes()
        return entries[index] if entries is not None and index < len(entries) else None

    def axes(self) -> list[cst.BaseExpression] | None:
        """The entries of the grid."""
        grid: cst.BaseExpression | None = self.site.grid
        if isinstance(grid, cst.Name):
            local = self._local_function(grid.value)
            grid = _returned(local) if local is not None else self.certain(grid.value)
        if isinstance(grid, cst.Lambda):
            grid = grid.body
        if isinstance(grid, cst.Tuple | cst.List):
            return [element.value for element in grid.elements]
        return None


def _returned(function: cst.FunctionDef) -> cst.BaseExpression | None:
    returns = [node for node in walk(function.body) if isinstance(node, cst.Return)]
    return returns[0].value if len(returns) == 1 else None


def _before(block: cst.IndentedBlock | cst.Module, child: cst.CSTNode) -> list[cst.CSTNode]:
    body: list[cst.CSTNode] = list(block.body)
    return body[: body.index(child)] if child in body else []


def _bindings(statement: cst.CSTNode, name: str) -> list[Reaching]:
    """What a statement binds a name to, the last binding first."""
    if isinstance(statement, cst.SimpleStatementLine):
        return [found for small in reversed(statement.body) for found in _simple_binding(small, name)]
    if isinstance(statement, cst.FunctionDef | cst.ClassDef):
        return []
    inner = [node for node in walk(statement) if isinstance(node, cst.BaseSmallStatement)]
    return [Reaching(found.value, False) for small in reversed(inner) for found in _simple_binding(small, name)]


def _simple_binding(small: cst.CSTNode, name: str) -> list[Reaching]:
    if isinstance(small, cst.Assign):
        for target in small.targets:
            if isinstance(target.target, cst.Name) and target.target.value == name:
                return [Reaching(small.value, True)]
            if not isinstance(target.target, cst.Name) and name in names_in(target.target):
                return [Reaching(_part(target.target, small.value, name), True)]
    if isinstance(small, cst.AnnAssign) and isinstance(small.target, cst.Name) and small.target.value == name:
        return [Reaching(small.value, True)]
    if isinstance(small, cst.AugAssign) and name in names_in(small.target):
        return [Reaching(None, True)]
    return []


def _part(target: cst.BaseExpression, value: cst.BaseExpression, name: str) -> cst.BaseExpression | None:
    """`a, b = 1, 2`: the part that belongs to the name."""
    if not (isinstance(target, cst.Tuple) and isinstance(value, cst.Tuple)):
        return None
    for left, right in zip(target.elements, value.elements, strict=False):
        if isinstance(left.value, cst.Name) and left.value.value == name:
            return right.value
    return None
