"""Shapes of a kernel's values as Triton broadcasts them; a dimension is the text of its size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import libcst as cst

from tilewright.proposers.retune.flow import Definition, Flow
from tilewright.proposers.retune.lift import ELEMENTWISE, HINTS, REDUCTIONS, SCALARS
from tilewright.proposers.retune.lift_nodes import argument, axis_value, slice_text
from tilewright.proposers.retune.trees import dotted_name, integer_value, squeezed

Shape = tuple[str, ...]


class ShapeUnknown(Exception):
    """A value whose shape the source does not show."""


@dataclass
class Shapes:
    """Asks the flow of one kernel for shapes."""

    flow: Flow
    _open: set[str] = field(default_factory=set)

    def of(self, node: cst.BaseExpression) -> Shape:
        """The shape of an expression; `()` of a scalar.

        Raises:
            ShapeUnknown: the source does not show it.
        """
        if isinstance(node, cst.Name):
            return self._of_name(node.value)
        if isinstance(node, cst.Integer | cst.Float):
            return ()
        if isinstance(node, cst.UnaryOperation):
            return self.of(node.expression)
        if isinstance(node, cst.BinaryOperation | cst.BooleanOperation):
            return _broadcast([self.of(node.left), self.of(node.right)])
        if isinstance(node, cst.Comparison):
            return _broadcast([self.of(node.left), *(self.of(target.comparator) for target in node.comparisons)])
        if isinstance(node, cst.Subscript):
            return self._of_subscript(node)
        if isinstance(node, cst.Call):
            return self._of_call(node)
        raise ShapeUnknown(type(node).__name__)

    def _of_name(self, name: str) -> Shape:
        if name in self._open:
            raise ShapeUnknown("a value that is made of itself")
        definitions = self.flow.definitions.get(name, ())
        if any(parameter.name == name for parameter in self.flow.kernel.parameters):
            if definitions:
                raise ShapeUnknown("a parameter that changes")
            return ()
        self._open.add(name)
        try:
            shapes = {self._of_definition(name, definition) for definition in definitions}
        finally:
            self._open.discard(name)
        if len(shapes) != 1:
            raise ShapeUnknown(name)
        return shapes.pop()

    def _of_definition(self, name: str, definition: Definition) -> Shape:
        node = definition.node
        if isinstance(node, cst.For):
            return ()
        targets = [target.target for target in node.targets] if isinstance(node, cst.Assign) else []
        if definition.value is None or any(not isinstance(target, cst.Name) for target in targets):
            raise ShapeUnknown(name)
        return self.of(definition.value)

    def _of_subscript(self, node: cst.Subscript) -> Shape:
        parts = [slice_text(element) for element in node.slice]
        inner = list(self.of(node.value))
        if None in parts or parts.count(":") != len(inner):
            raise ShapeUnknown("a subscript")
        return tuple("1" if part == "None" else inner.pop(0) for part in parts)

    def _of_call(self, node: cst.Call) -> Shape:
        name = self.flow.called(node)
        if name == "arange":
            return self._of_arange(node)
        if name in ("zeros", "full"):
            return _written(argument(node, "shape", 0))
        if name in SCALARS or dotted_name(node.func) in ("float", "int", "min", "max"):
            return ()
        if name in REDUCTIONS:
            return self._of_reduction(node)
        if name == "load" or name in HINTS:
            return self.of(node.args[0].value)
        if name in ELEMENTWISE:
            return _broadcast([self.of(arg.value) for arg in node.args if arg.keyword is None])
        if isinstance(node.func, cst.Attribute) and node.func.attr.value == "to":
            return self.of(node.func.value)
        raise ShapeUnknown(name)

    def _of_arange(self, node: cst.Call) -> Shape:
        if len(node.args) != 2 or integer_value(node.args[0].value) != 0:
            raise ShapeUnknown("arange")
        return (squeezed(node.args[1].value),)

    def _of_reduction(self, node: cst.Call) -> Shape:
        inner = self.of(node.args[0].value)
        given = argument(node, "axis", 1)
        axis = axis_value(given, len(inner))
        if given is None and len(node.args) == 1:
            return ()
        if axis is None or not 0 <= axis < len(inner) or len(node.args) > 2:
            raise ShapeUnknown("a reduction")
        return inner[:axis] + inner[axis + 1 :]


def _written(arg: cst.Arg | None) -> Shape:
    if arg is None or not isinstance(arg.value, cst.Tuple | cst.List):
        raise ShapeUnknown("a shape that is not written out")
    return tuple(squeezed(element.value) for element in arg.value.elements)


def _broadcast(shapes: Iterable[Shape]) -> Shape:
    """Shorter shapes are filled with ones in front; other dimensions must be written alike."""
    found = list(shapes)
    rank = max((len(shape) for shape in found), default=0)
    filled = [("1",) * (rank - len(shape)) + shape for shape in found]
    result: list[str] = []
    for sizes in zip(*filled, strict=True):
        wide = {size for size in sizes if size != "1"}
        if len(wide) > 1:
            raise ShapeUnknown(" and ".join(sorted(wide)))
        result.append(wide.pop() if wide else "1")
    return tuple(result)
