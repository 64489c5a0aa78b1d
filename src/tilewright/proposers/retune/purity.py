"""Host statements that compute fresh values from what they read and change nothing."""

from __future__ import annotations

from collections.abc import Collection

import libcst as cst

from tilewright.proposers.retune.trees import children_of, dotted_name, walk

_SIZES = frozenset({"size", "dim", "numel", "stride", "is_contiguous", "element_size"})
_METHODS = frozenset(
    {"abs", "add", "bfloat16", "clone", "contiguous", "detach", "div", "double", "exp", "expand", "flatten", "flip"}
    | {"float", "half", "log", "matmul", "mean", "mul", "neg", "permute", "pow", "reciprocal", "repeat", "reshape"}
    | {"rsqrt", "sqrt", "squeeze", "sub", "sum", "t", "to", "transpose", "unsqueeze", "view"}
)
_FUNCTIONS = frozenset(
    {"abs", "add", "cat", "div", "einsum", "exp", "flip", "full", "full_like", "log", "matmul", "mean", "mm", "mul"}
    | {"neg", "ones", "ones_like", "permute", "pow", "reciprocal", "reshape", "rsqrt", "sqrt", "stack", "sub", "sum"}
    | {"tensor", "transpose", "where", "zeros", "zeros_like"}
)
_PLAIN = frozenset({"float", "int", "len", "max", "min", "bool"})


def is_pure_statement(statement: cst.BaseStatement) -> bool:
    """Assignments to names, and `if`s of such: every call in it is one that is known to change nothing."""
    allowed = (cst.Assign, cst.Pass)
    for node in walk(statement):
        if isinstance(node, cst.BaseSmallStatement) and not isinstance(node, allowed):
            return False
        if isinstance(node, cst.BaseCompoundStatement) and not isinstance(node, cst.If):
            return False
        if isinstance(node, cst.Call) and not _is_pure_call(node):
            return False
        if isinstance(node, cst.Await | cst.Yield | cst.Lambda | cst.NamedExpr | cst.BaseComp | cst.FormattedString):
            return False
    return True


def _is_pure_call(call: cst.Call) -> bool:
    dotted = dotted_name(call.func)
    if dotted.startswith("torch."):
        return dotted.removeprefix("torch.") in _FUNCTIONS
    if dotted.startswith("triton."):
        return dotted in ("triton.cdiv", "triton.next_power_of_2")
    if isinstance(call.func, cst.Attribute):
        return call.func.attr.value in _METHODS | _SIZES
    return dotted in _PLAIN


def makes_tensors(statement: cst.BaseStatement) -> bool:
    """Whether it is worth keeping: it calls something that computes or copies, or does arithmetic on names."""
    for node in walk(statement):
        if isinstance(node, cst.Call):
            name = dotted_name(node.func)
            if name.startswith("torch.") or (
                isinstance(node.func, cst.Attribute)
                and node.func.attr.value in _METHODS
                and not name.startswith("triton.")
            ):
                return True
        if isinstance(node, cst.BinaryOperation) and not isinstance(node.left, cst.Integer):
            return True
    return False


def chains_in(node: cst.CSTNode, roots: Collection[str]) -> set[str]:
    """The longest attribute chains that start at one of the names: `bn.eps`, `self.fc.weight`; methods left out."""
    found: set[str] = set()
    _collect(node, frozenset(roots), found)
    return found


def _collect(node: cst.CSTNode, roots: frozenset[str], found: set[str]) -> None:
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        dotted = dotted_name(node.func)
        if dotted and dotted.split(".")[0] in roots:
            found.add(".".join(dotted.split(".")[:-1]))
            for arg in node.args:
                _collect(arg, roots, found)
            return
    if isinstance(node, cst.Attribute):
        dotted = dotted_name(node)
        if dotted and dotted.split(".")[0] in roots:
            found.add(dotted)
            return
        _collect(node.value, roots, found)
        return
    if isinstance(node, cst.Name):
        if node.value in roots:
            found.add(node.value)
        return
    if isinstance(node, cst.Arg):
        _collect(node.value, roots, found)
        return
    if isinstance(node, cst.AssignTarget):
        return
    for child in children_of(node):
        _collect(child, roots, found)
