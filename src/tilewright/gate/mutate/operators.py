"""The mutation operators: what people and models get wrong in kernels, one at a time, each as `before -> after`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping

from tilewright.gate.mutate.edits import Text

#: (what is replaced, by what): one change of meaning at one node.
Change = tuple[ast.expr | ast.stmt | ast.keyword, str]
Operator = Callable[[ast.AST, Text], Iterator[Change]]

_REDUCTIONS = frozenset({"sum", "max", "min", "argmax", "argmin", "cumsum", "reduce"})


def callee(node: ast.AST) -> str:
    """Last name of what is called (`load` of `tl.load(...)`); empty where it is no call."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _keyword(node: ast.Call, name: str) -> ast.keyword | None:
    return next((keyword for keyword in node.keywords if keyword.arg == name), None)


def _is_infinity(node: ast.AST) -> bool:
    return callee(node) == "float" and isinstance(node, ast.Call) and bool(node.args) and (
        isinstance(node.args[0], ast.Constant) and node.args[0].value == "inf"
    )  # fmt: skip


# --- bounds and masks ----------------------------------------------------------------------------------------

_BOUNDARIES: Mapping[type[ast.cmpop], str] = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}


def boundary(node: ast.AST, text: Text) -> Iterator[Change]:
    """`a < b -> a <= b`, and the other three."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _BOUNDARIES:
        sign = _BOUNDARIES[type(node.ops[0])]
        yield node, f"{text.operand(node.left)} {sign} {text.operand(node.comparators[0])}"


def bound_off_by_one(node: ast.AST, text: Text) -> Iterator[Change]:
    """`a < n -> a < n - 1`, `a < n -> a < n + 1`."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Lt | ast.LtE):
        bound = node.comparators[0]
        if not (isinstance(bound, ast.Constant) and type(bound.value) is float):
            yield bound, f"{text.operand(bound)} - 1"
            yield bound, f"{text.operand(bound)} + 1"


def dropped_conjunct(node: ast.AST, text: Text) -> Iterator[Change]:
    """`a & b -> a`, `a & b -> b`, `a & b -> a | b`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        yield node, text.operand(node.left)
        yield node, text.operand(node.right)
        yield node, f"{text.operand(node.left)} | {text.operand(node.right)}"


def removed_mask(node: ast.AST, text: Text) -> Iterator[Change]:
    """`tl.store(p, v, mask=m) -> tl.store(p, v)`; of a load, `other=` goes too."""
    if isinstance(node, ast.Call) and callee(node) in {"load", "store", "atomic_add"} and _keyword(node, "mask"):
        kept = [text.of(argument) for argument in node.args]
        kept += [text.of(keyword) for keyword in node.keywords if keyword.arg not in {"mask", "other"}]
        yield node, f"{text.of(node.func)}({', '.join(kept)})"


def changed_other(node: ast.AST, text: Text) -> Iterator[Change]:
    """`other=0.0 -> other=1.0`, `other=inf -> other=0.0`."""
    if isinstance(node, ast.Call) and callee(node) == "load" and (other := _keyword(node, "other")) is not None:
        zero = isinstance(other.value, ast.Constant) and other.value.value == 0
        yield other.value, "1.0" if zero else "0.0"


def dropped_other(node: ast.AST, text: Text) -> Iterator[Change]:
    """`tl.load(p, mask=m, other=inf) -> tl.load(p, mask=m)`; of zero, which is what comes anyway, it is left."""
    if isinstance(node, ast.Call) and callee(node) == "load" and (other := _keyword(node, "other")) is not None:
        if isinstance(other.value, ast.Constant) and other.value.value == 0:
            return
        kept = [text.of(argument) for argument in node.args]
        kept += [text.of(keyword) for keyword in node.keywords if keyword is not other]
        yield node, f"{text.of(node.func)}({', '.join(kept)})"


# --- arithmetic ----------------------------------------------------------------------------------------------

_ARITHMETIC: Mapping[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"),
}


def other_operation(node: ast.AST, text: Text) -> Iterator[Change]:
    """`a + b -> a - b`, `a - b -> a + b`, `a * b -> a + b`, `a / b -> a * b`, `a // b -> a % b`, `a % b -> a // b`."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        sign = _ARITHMETIC[type(node.op)][1]
        # In brackets: the new operation may bind less tightly than the old.
        yield node, f"({text.operand(node.left)} {sign} {text.operand(node.right)})"


def swapped_operands(node: ast.AST, text: Text) -> Iterator[Change]:
    """`a - b -> b - a`, and of `/`, `//`, `%`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Mod):
        sign = _ARITHMETIC[type(node.op)][0]
        yield node, f"({text.operand(node.right)} {sign} {text.operand(node.left)})"


def dropped_minus(node: ast.AST, text: Text) -> Iterator[Change]:
    """`-a -> a`."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node, text.operand(node.operand)


def wrong_constant(node: ast.AST, text: Text) -> Iterator[Change]:
    """`0.5 -> 0.51`, `2 -> 3`; zeros are others' business."""
    if isinstance(node, ast.Constant) and type(node.value) is float and node.value != 0.0:
        yield node, repr(node.value * 1.02)
    if isinstance(node, ast.Constant) and type(node.value) is int and 1 <= node.value <= 8:
        yield node, str(node.value + 1)


_TWINS: Mapping[str, tuple[str, ...]] = {
    "maximum": ("minimum",),
    "minimum": ("maximum",),
    "max": ("min",),
    "min": ("max",),
    "sum": ("max",),
    "exp": ("exp2",),
    "log": ("log2",),
    "sqrt": ("rsqrt",),
    "rsqrt": ("sqrt",),
    "atomic_add": ("atomic_max",),
}


def other_function(node: ast.AST, text: Text) -> Iterator[Change]:
    """`tl.maximum -> tl.minimum`, `tl.sum -> tl.max`, `tl.exp -> tl.exp2`, ..."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        for name in _TWINS.get(node.func.attr, ()):
            if text.of(node.func.value) in {"tl", "tl.math"}:
                yield node.func, f"{text.of(node.func.value)}.{name}"


def swapped_choice(node: ast.AST, text: Text) -> Iterator[Change]:
    """`where(c, a, b) -> where(c, b, a)`, `where(c, a, b) -> a`."""
    if isinstance(node, ast.Call) and callee(node) == "where" and len(node.args) == 3:
        condition, yes, no = (text.of(argument) for argument in node.args)
        yield node, f"{text.of(node.func)}({condition}, {no}, {yes})"
        yield node, text.operand(node.args[1])


# --- reductions ----------------------------------------------------------------------------------------------


def wrong_identity(node: ast.AST, text: Text) -> Iterator[Change]:
    """Start of an accumulation: `full(..., 0.0) -> full(..., 1.0)`, `inf -> 0.0`, `zeros -> full(1.0)`."""
    if isinstance(node, ast.Call) and callee(node) == "full" and len(node.args) >= 2:
        zero = isinstance(node.args[1], ast.Constant) and node.args[1].value == 0
        yield node.args[1], "1.0" if zero else "0.0"
    elif _is_infinity(node):
        assert isinstance(node, ast.expr)
        yield node, "1.0"


def missing_accumulate(node: ast.AST, text: Text) -> Iterator[Change]:
    """`acc += e -> acc = e`, `acc = acc + e -> acc = e`, `acc = f(acc, e) -> acc = e`."""
    if isinstance(node, ast.AugAssign):
        yield node, f"{text.of(node.target)} = {text.of(node.value)}"
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        name, value = node.targets[0].id, node.value
        if isinstance(value, ast.BinOp) and isinstance(value.left, ast.Name) and value.left.id == name:
            yield value, text.of(value.right)
        elif (
            isinstance(value, ast.Call) and len(value.args) == 2 and isinstance(value.args[0], ast.Name)
            and value.args[0].id == name and callee(value) not in _REDUCTIONS
        ):  # fmt: skip
            yield value, text.of(value.args[1])


def wrong_axis(node: ast.AST, text: Text) -> Iterator[Change]:
    """Axis 0 for 1 and 1 for 0 of a reduction; another grid axis of `program_id`."""
    if not isinstance(node, ast.Call):
        return
    if callee(node) in _REDUCTIONS:
        places = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "axis")]
        for place in places:
            if isinstance(place, ast.Constant) and type(place.value) is int and place.value in {0, 1}:
                yield place, str(1 - place.value)
    if callee(node) == "program_id" and node.args:
        axis = node.args[0]
        if isinstance(axis, ast.Constant) and type(axis.value) is int:
            yield axis, str((axis.value + 1) % 3)


def turned_range(node: ast.AST, text: Text) -> Iterator[Change]:
    """`tl.arange(0, N)[:, None] -> tl.arange(0, N)[None, :]`, and back."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2:
        first, second = (text.of(part) for part in node.slice.elts)
        if {first, second} == {":", "None"}:
            yield node.slice, f"{second}, {first}"


# --- loops and tiles -----------------------------------------------------------------------------------------


def shortened_loop(node: ast.AST, text: Text) -> Iterator[Change]:
    """`range(0, n, s) -> range(s, n, s)`, `-> range(0, n - s, s)`, `-> range(0, s, s)`; of plain ranges likewise."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"):
        return
    arguments = [text.of(argument) for argument in node.args]
    if len(arguments) == 1:
        yield node, f"range(1, {arguments[0]})"
        yield node, f"range({text.operand(node.args[0])} - 1)"
        return
    step = text.operand(node.args[2]) if len(arguments) == 3 else "1"
    start, end = text.operand(node.args[0]), text.operand(node.args[1])
    tail = f", {step}" if len(arguments) == 3 else ""
    yield node, f"range({start} + {step}, {end}{tail})"
    yield node, f"range({start}, {end} - {step}{tail})"
    if len(arguments) == 3:
        yield node, f"range({start}, {end}, {step} * 2)"


def dropped_tile(node: ast.AST, text: Text) -> Iterator[Change]:
    """`cdiv(a, b) -> a // b`, `cdiv(a, b) -> cdiv(a, b) - 1` where more than one is left."""
    if isinstance(node, ast.Call) and callee(node) == "cdiv" and len(node.args) == 2:
        yield node, f"({text.operand(node.args[0])} // {text.operand(node.args[1])})"


def changed_constexpr(node: ast.AST, text: Text) -> Iterator[Change]:
    """`BLOCK=128 -> BLOCK=64` at a launch, `"BLOCK": 128 -> "BLOCK": 64` in a configuration."""
    if isinstance(node, ast.keyword) and node.arg is not None and node.arg.isupper():
        if isinstance(node.value, ast.Constant) and type(node.value.value) is int and node.value.value > 1:
            yield node.value, str(node.value.value // 2)
        elif isinstance(node.value, ast.Name):
            yield node.value, f"max(1, {node.value.id} // 2)"
    if isinstance(node, ast.Dict):
        for value in node.values:
            if isinstance(value, ast.Constant) and type(value.value) is int and value.value > 1:
                yield value, str(value.value // 2)


# --- addresses -----------------------------------------------------------------------------------------------


def swapped_strides(node: ast.AST, text: Text) -> Iterator[Change]:
    """`i * A + j * B -> i * B + j * A`; with a stride of one, `i * A + j -> i + j * A`."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
        return
    left = node.left
    if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add):
        left = left.right
    if not (isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mult)):
        return
    before = f"{text.operand(node.left.left)} + " if left is not node.left and isinstance(node.left, ast.BinOp) else ""
    row, stride, right = text.operand(left.left), text.operand(left.right), node.right
    if isinstance(right, ast.BinOp) and isinstance(right.op, ast.Mult):
        other = f"{row} * {text.operand(right.right)} + {text.operand(right.left)} * {stride}"
    else:
        other = f"{row} + {text.operand(right)} * {stride}"
    yield node, f"({before}{other})"


def shifted_address(node: ast.AST, text: Text) -> Iterator[Change]:
    """`tl.load(p) -> tl.load(p + 1)`, of a store likewise."""
    if isinstance(node, ast.Call) and callee(node) in {"load", "store"} and text.of(node.func).startswith("tl."):
        yield node.args[0], f"{text.operand(node.args[0])} + 1"


# --- the host ------------------------------------------------------------------------------------------------


def swapped_arguments(node: ast.AST, text: Text) -> Iterator[Change]:
    """`kernel[grid](x, out, N, C) -> kernel[grid](x, out, C, N)`: neighbours among a launch's plain names."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)):
        return
    texts = [text.of(argument) for argument in node.args]
    for index in range(len(texts) - 1):
        if texts[index] != texts[index + 1]:
            swapped = [*texts[:index], texts[index + 1], texts[index], *texts[index + 2 :]]
            keywords = [text.of(keyword) for keyword in node.keywords]
            yield node, f"{text.of(node.func)}({', '.join([*swapped, *keywords])})"


def removed_statement(node: ast.AST, text: Text) -> Iterator[Change]:
    """A store, or an assignment to a name that is assigned before, is left out."""
    if isinstance(node, ast.Expr) and callee(node.value) in {"store", "atomic_add"}:
        yield node, "pass"
    if isinstance(node, ast.AugAssign):
        yield node, "pass"


def dropped_contiguous(node: ast.AST, text: Text) -> Iterator[Change]:
    """`x.contiguous() -> x`."""
    if isinstance(node, ast.Call) and callee(node) == "contiguous" and isinstance(node.func, ast.Attribute):
        yield node, text.operand(node.func.value)


def unzeroed(node: ast.AST, text: Text) -> Iterator[Change]:
    """`torch.zeros -> torch.empty`."""
    if isinstance(node, ast.Attribute) and node.attr in {"zeros", "zeros_like"} and text.of(node.value) == "torch":
        yield node, f"torch.{node.attr.replace('zeros', 'empty')}"


#: Name -> operator. Order matters for numbering only: a seed's mutants stay the same while it does.
OPERATORS: Mapping[str, Operator] = {
    function.__name__: function
    for function in (
        boundary, bound_off_by_one, dropped_conjunct, removed_mask, changed_other, dropped_other,
        other_operation, swapped_operands, dropped_minus, wrong_constant, other_function, swapped_choice,
        wrong_identity, missing_accumulate, wrong_axis, turned_range,
        shortened_loop, dropped_tile, changed_constexpr,
        swapped_strides, shifted_address,
        swapped_arguments, removed_statement, dropped_contiguous, unzeroed,
    )
}  # fmt: skip
