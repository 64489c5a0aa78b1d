"""How many dimensions the values of a kernel have, inferred from its syntax tree; None where that cannot be told."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from tilewright.gate.contract.syntax import LANGUAGE, Function

_CONSTRUCTORS = frozenset(f"{LANGUAGE}.{name}" for name in ("zeros", "full", "broadcast_to", "reshape", "view"))
_REDUCTIONS = frozenset(f"{LANGUAGE}.{name}" for name in ("sum", "max", "min", "argmax", "argmin", "xor_sum", "reduce"))


def ranks(function: Function) -> dict[str, int | None]:
    """Local name -> dimensions of its value, in the order of the source; names assigned differently get None."""
    known: dict[str, int | None] = dict.fromkeys(function.parameters, 0)
    statements = [n for n in ast.walk(function.node) if isinstance(n, ast.Assign | ast.AnnAssign | ast.AugAssign)]
    for node in sorted(statements, key=lambda n: (n.lineno, n.col_offset)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if len(targets) != 1 or not isinstance(targets[0], ast.Name) or node.value is None:
            for target in targets:
                known.update({n.id: None for n in ast.walk(target) if isinstance(n, ast.Name)})
            continue
        name = targets[0].id
        value = rank(node.value, known, function)
        if isinstance(node, ast.AugAssign):
            value = _joined(known.get(name), value)
        if name in known and name not in function.parameters and known[name] != value:
            value = None
        known[name] = value
    return known


def rank(node: ast.expr, known: Mapping[str, int | None], function: Function) -> int | None:
    """Dimensions of an expression's value."""
    if isinstance(node, ast.Constant):
        return 0
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.UnaryOp):
        return rank(node.operand, known, function)
    if isinstance(node, ast.BinOp):
        return _joined(rank(node.left, known, function), rank(node.right, known, function))
    if isinstance(node, ast.Compare):
        return _joined(rank(node.left, known, function), *(rank(c, known, function) for c in node.comparators))
    if isinstance(node, ast.BoolOp):
        return _joined(*(rank(value, known, function) for value in node.values))
    if isinstance(node, ast.Subscript):
        return _subscript(node, known, function)
    if isinstance(node, ast.Call):
        return _call(node, known, function)
    return None


def _joined(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _subscript(node: ast.Subscript, known: Mapping[str, int | None], function: Function) -> int | None:
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    base = rank(node.value, known, function)
    if base is None:
        # `x[:, None]` says itself how many dimensions come out, whatever x is.
        plain = all(isinstance(i, ast.Slice) or (isinstance(i, ast.Constant) and i.value is None) for i in items)
        return len(items) if plain and len(items) > 1 else None
    new = sum(isinstance(item, ast.Constant) and item.value is None for item in items)
    return base + new


def _call(node: ast.Call, known: Mapping[str, int | None], function: Function) -> int | None:
    name = function.names.resolve(node.func)
    if name is None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"to", "cast"}:
            return rank(node.func.value, known, function)
        return None
    if name == f"{LANGUAGE}.arange":
        return 1
    if name in {f"{LANGUAGE}.program_id", f"{LANGUAGE}.num_programs", f"{LANGUAGE}.cdiv"}:
        return 0
    if name in _CONSTRUCTORS:
        shape = node.args[1 if name.endswith(("broadcast_to", "reshape", "view")) else 0 : None][:1]
        return len(shape[0].elts) if shape and isinstance(shape[0], ast.Tuple | ast.List) else None
    if name in _REDUCTIONS:
        return _reduced(node, known, function)
    if name == f"{LANGUAGE}.load":
        return rank(node.args[0], known, function) if node.args else None
    if name == f"{LANGUAGE}.dot":
        return 2
    elementwise = {
        "where",
        "maximum",
        "minimum",
        "exp",
        "log",
        "abs",
        "sqrt",
        "rsqrt",
        "exp2",
        "log2",
        "sin",
        "cos",
        "fma",
    }
    if name.rpartition(".")[2] in elementwise | {"erf"}:
        return _joined(*(rank(argument, known, function) for argument in node.args))
    return None


def _reduced(node: ast.Call, known: Mapping[str, int | None], function: Function) -> int | None:
    value = rank(node.args[0], known, function) if node.args else None
    options = {keyword.arg: keyword.value for keyword in node.keywords}
    axis = node.args[1] if len(node.args) > 1 else options.get("axis")
    keep = options.get("keep_dims")
    if keep is not None and not (isinstance(keep, ast.Constant) and keep.value is False):
        return value if isinstance(keep, ast.Constant) else None
    if axis is None or (isinstance(axis, ast.Constant) and axis.value is None):
        return 0
    return None if value is None else value - 1
