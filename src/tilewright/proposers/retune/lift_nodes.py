"""Nodes that lifting builds and reads: operands, subscripts of whole axes, arguments, guards."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from tilewright.proposers.retune.trees import expression, integer_value, walk

#: Expressions that may be an operand or take a subscript without parentheses.
_ATOMS = (cst.Name, cst.Call, cst.Subscript, cst.Attribute, cst.Integer, cst.Float)


def operand(node: cst.BaseExpression) -> cst.BaseExpression:
    """In parentheses, where it is no atom."""
    if isinstance(node, _ATOMS) or getattr(node, "lpar", None):
        return node
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.BitAnd):
        return node
    return in_parentheses(node)


def in_parentheses(node: cst.BaseExpression) -> cst.BaseExpression:
    """The expression in parentheses."""
    return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def subscripted(value: cst.BaseExpression, parts: Sequence[str]) -> cst.Subscript:
    """`value[parts]`; of a value that is itself only expanded, the two subscripts are joined."""
    shell = cst.ensure_type(expression(f"v[{', '.join(parts)}]"), cst.Subscript)
    if isinstance(value, cst.Subscript):
        inner = [slice_text(element) for element in value.slice]
        if None not in inner and len(inner) == parts.count(":") and parts[: len(inner)] == [":"] * len(inner):
            joined = [*(part for part in inner if part is not None), *parts[len(inner) :]]
            shell = cst.ensure_type(expression(f"v[{', '.join(joined)}]"), cst.Subscript)
            return shell.with_changes(value=value.value)
    atom = value if isinstance(value, _ATOMS) or getattr(value, "lpar", None) else in_parentheses(value)
    return shell.with_changes(value=atom)


def slice_text(element: cst.SubscriptElement) -> str | None:
    """`:` or `None`; nothing for any other subscript."""
    part = element.slice
    if isinstance(part, cst.Slice):
        return ":" if part.lower is None and part.upper is None and part.step is None else None
    if isinstance(part, cst.Index) and isinstance(part.value, cst.Name) and part.value.value == "None":
        return "None"
    return None


def argument(node: cst.Call, name: str, position: int) -> cst.Arg | None:
    """The argument of that name, given by keyword or by position."""
    for index, arg in enumerate(node.args):
        if (arg.keyword is not None and arg.keyword.value == name) or (arg.keyword is None and index == position):
            return arg
    return None


def axis_value(arg: cst.Arg | None, rank: int | None) -> int | None:
    """The axis of a reduction, counted from the front; without one, a rank of 1 leaves no choice."""
    if arg is None:
        return 0 if rank == 1 else None
    value = arg.value
    if isinstance(value, cst.UnaryOperation) and isinstance(value.operator, cst.Minus):
        inner = integer_value(value.expression)
        return None if inner is None or rank is None else rank - inner
    return integer_value(value)


def only_returns(body: cst.BaseSuite) -> bool:
    """A suite that is one bare `return`."""
    parts = [part for part in walk(body) if isinstance(part, cst.BaseSmallStatement)]
    return len(parts) == 1 and isinstance(parts[0], cst.Return) and parts[0].value is None


def alternatives(node: cst.BaseExpression) -> list[cst.BaseExpression]:
    """The parts that `or` joins."""
    if isinstance(node, cst.BooleanOperation) and isinstance(node.operator, cst.Or):
        return alternatives(node.left) + alternatives(node.right)
    return [node.with_changes(lpar=[], rpar=[]) if isinstance(node, cst.Comparison) else node]
