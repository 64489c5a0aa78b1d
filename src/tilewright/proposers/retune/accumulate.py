"""Reductions moved out of loops: tiles are accumulated element by element, and reduced once behind the loop.

`s += tl.sum(v, axis=a)` in a loop -> `t += v` in the loop, `s += tl.sum(t, axis=a)` behind it, t a float32 tile that
starts at zero; `tl.maximum` of `tl.max` and `tl.minimum` of `tl.min` likewise. A reduction shuffles between threads
and, with several warps, waits for all of them: without it, the loads of the next iteration need not wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import libcst as cst

from tilewright.proposers.retune.edit import Context, Proposal, Subject
from tilewright.proposers.retune.facts import has_dot
from tilewright.proposers.retune.flow import Flow
from tilewright.proposers.retune.host import HostScope
from tilewright.proposers.retune.lift_nodes import argument
from tilewright.proposers.retune.schedule_edits import launch_options
from tilewright.proposers.retune.shapes import Shapes, ShapeUnknown
from tilewright.proposers.retune.signatures import fresh_name
from tilewright.proposers.retune.trees import (
    ancestors,
    code_of,
    integer_value,
    replace_inside,
    replace_nodes,
    squeezed,
    statements,
    walk,
)

#: What joins two partial results -> (the reduction, what it starts from).
_JOINS: Mapping[str, tuple[str, str]] = {
    "add": ("sum", "0.0"),
    "maximum": ("max", 'float("-inf")'),
    "minimum": ("min", 'float("inf")'),
}
#: Elements of the tile for each thread up to which it stays in registers beside what the loop holds.
_FEW_FOR_A_THREAD = 16


@dataclass(frozen=True)
class _Reduction:
    """One reduction of a loop.

    Attributes:
        total: the name that holds the result.
        join: `add`, `maximum` or `minimum`.
        call: the reduction of the loop's tile.
        shape: of the tile, as text.
        line: the statement that reduces.
        spent: the statement that joins, where that is another one.
    """

    total: str
    join: str
    call: cst.Call
    shape: tuple[str, ...]
    line: cst.SimpleStatementLine
    spent: cst.SimpleStatementLine | None = None


def accumulate_tiles(subject: Subject, context: Context) -> Iterator[Proposal]:
    """Every reduction in a loop that only adds to one result is moved behind the loop."""
    del context
    flow = subject.flow
    if has_dot(flow) or flow.has_block_pointers:
        return
    changes: dict[cst.CSTNode, cst.FlattenSentinel[cst.BaseStatement]] = {}
    moved: list[_Reduction] = []
    for loop in (node for node in flow.nodes if isinstance(node, cst.For)):
        found = list(_reductions(subject, loop))
        if found and not any(outer in changes for outer in ancestors(loop, flow.parents)):
            changes[loop] = _rewritten(subject, loop, found)
            moved += found
    if changes:
        names = ", ".join(dict.fromkeys(one.total for one in moved))
        light = all(_elements_for_a_thread(subject, one.shape) <= _FEW_FOR_A_THREAD for one in moved)
        source = replace_nodes(subject.view.module, changes).code
        yield Proposal(source, f"{names} reduced once, behind the loop", 1.15 if light else 1.02)


def _reductions(subject: Subject, loop: cst.For) -> Iterator[_Reduction]:
    if loop.orelse is not None or not isinstance(loop.body, cst.IndentedBlock):
        return
    for line in loop.body.body:
        if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1:
            found = _reduction(subject.flow, loop, line)
            if found is not None and _is_fixed(subject, found.shape):
                yield found


def _reduction(flow: Flow, loop: cst.For, line: cst.SimpleStatementLine) -> _Reduction | None:
    """The reduction that a line of a loop joins to its total, if it does nothing else and nobody looks on."""
    joined = _joined(flow, line.body[0])
    if joined is None:
        return None
    total, value, join = joined
    place, spent = line, None
    if isinstance(value, cst.Name):
        defined = _defining_line(flow, loop, value.value)
        single = flow.single(value.value)
        if defined is None or single is None:
            return None
        value, place, spent = single, defined, line
    if not isinstance(value, cst.Call) or not _is_plain_reduction(flow, value, _JOINS[join][0]):
        return None
    used = [node for node in walk(loop) if isinstance(node, cst.Name) and node.value == total]
    if any(not _lies_in(node, line, flow) for node in used) or not _starts_as_float32(flow, loop, total):
        return None
    try:
        shape = Shapes(flow).of(value.args[0].value)
    except ShapeUnknown:
        return None
    return _Reduction(total, join, value, shape, place, spent) if shape else None


def _joined(flow: Flow, node: cst.CSTNode) -> tuple[str, cst.BaseExpression, str] | None:
    """`s += v`, `s = s + v`, `s = tl.maximum(s, v)`: the name, the other operand, and how they are joined."""
    if isinstance(node, cst.AugAssign) and isinstance(node.target, cst.Name):
        return (node.target.value, node.value, "add") if isinstance(node.operator, cst.AddAssign) else None
    if not (isinstance(node, cst.Assign) and len(node.targets) == 1 and isinstance(node.targets[0].target, cst.Name)):
        return None
    total, value = node.targets[0].target.value, node.value
    if isinstance(value, cst.BinaryOperation) and isinstance(value.operator, cst.Add):
        sides, join = [value.left, value.right], "add"
    elif flow.is_call(value, "maximum", "minimum"):
        call = cst.ensure_type(value, cst.Call)
        if len(call.args) != 2 or any(arg.keyword is not None for arg in call.args):
            return None
        sides, join = [arg.value for arg in call.args], flow.called(call)
    else:
        return None
    others = [side for side in sides if not (isinstance(side, cst.Name) and side.value == total)]
    return (total, others[0], join) if len(others) == 1 else None


def _defining_line(flow: Flow, loop: cst.For, name: str) -> cst.SimpleStatementLine | None:
    """The line of the loop that defines a name which is read once."""
    found = flow.definitions.get(name, ())
    uses = [node for node in flow.nodes if isinstance(node, cst.Name) and node.value == name]
    if len(found) != 1 or len(uses) != 2:  # the target and the one that reads it
        return None
    line = flow.parents.get(found[0].node)
    if (
        not isinstance(line, cst.SimpleStatementLine)
        or len(line.body) != 1
        or not isinstance(found[0].node, cst.Assign)
    ):
        return None
    return line if flow.parents.get(line) is loop.body else None


def _is_plain_reduction(flow: Flow, call: cst.Call, name: str) -> bool:
    """`tl.sum(v)` or `tl.sum(v, axis=a)` and nothing more."""
    if flow.called(call) != name or not call.args or call.args[0].keyword is not None:
        return False
    others = call.args[1:]
    return not others or (len(others) == 1 and argument(call, "axis", 1) is others[0])


def _lies_in(node: cst.CSTNode, line: cst.SimpleStatementLine, flow: Flow) -> bool:
    return any(outer is line for outer in ancestors(node, flow.parents))


def _starts_as_float32(flow: Flow, loop: cst.For, total: str) -> bool:
    """The total is set beside the loop, before it, to a float32 value: integers and float64 are summed otherwise."""
    block = flow.parents.get(loop)
    before: cst.BaseExpression | None = None
    for statement in block.body if isinstance(block, cst.IndentedBlock) else ():
        if statement is loop:
            break
        bound = [d for d in flow.definitions.get(total, ()) if d.node is statement or _holds(statement, d.node)]
        if bound:
            before = bound[-1].value if isinstance(statement, cst.SimpleStatementLine) else None
    return before is not None and _is_float32(flow, before)


def _holds(statement: cst.CSTNode, node: cst.CSTNode) -> bool:
    return any(inner is node for inner in walk(statement))


def _is_float32(flow: Flow, node: cst.BaseExpression) -> bool:
    if isinstance(node, cst.UnaryOperation):
        return _is_float32(flow, node.expression)
    if isinstance(node, cst.Float):
        return True
    if not isinstance(node, cst.Call):
        return False
    if isinstance(node.func, cst.Name) and node.func.value == "float":
        return True
    dtype = argument(node, "dtype", {"zeros": 1, "full": 2}.get(flow.called(node), -1))
    return dtype is not None and squeezed(dtype.value) == f"{flow.language}.float32"


def _is_fixed(subject: Subject, shape: Sequence[str]) -> bool:
    """Every size is a number or a `tl.constexpr` argument: the same before the loop as in it."""
    known = set(subject.kernel.constexprs) - set(subject.flow.definitions)
    return all(size.isdigit() or size in known for size in shape)


def _elements_for_a_thread(subject: Subject, shape: Sequence[str]) -> float:
    """Elements of a tile for each thread of the first launch; infinite where a size or the warps are not known."""
    site, options = subject.kernel.launches[0], launch_options(subject.kernel)
    scope = HostScope(subject.view, site)
    sizes: list[int] = []
    for size in shape:
        arg = site.bound.get(size)
        literal = int(size) if size.isdigit() else None
        if arg is not None:
            literal = integer_value(scope.size_literal(arg.value))
        sizes.append(literal or 0)
    if options is None or not all(sizes):
        return math.inf
    return math.prod(sizes) / (32 * options[0])


def _rewritten(subject: Subject, loop: cst.For, found: Sequence[_Reduction]) -> cst.FlattenSentinel[cst.BaseStatement]:
    """The tiles' starts, the loop, and the reductions behind it."""
    tl = subject.view.language
    changes: dict[cst.CSTNode, cst.CSTNode | cst.RemovalSentinel] = {}
    before: list[cst.BaseStatement] = []
    behind: list[cst.BaseStatement] = []
    for one in found:
        tile = fresh_name(subject.view, f"{one.total}_tile")
        start, sizes = _JOINS[one.join][1], ", ".join(one.shape) + ("," if len(one.shape) == 1 else "")
        made = "zeros" if one.join == "add" else "full"
        value = "" if one.join == "add" else f" {start},"
        before += statements(f"{tile} = {tl}.{made}(({sizes}),{value} dtype={tl}.float32)\n")
        term = code_of(one.call.args[0].value)
        changes[one.line] = _in_place_of(one.line, _join(tl, tile, term, one.join))
        if one.spent is not None:
            changes[one.spent] = cst.RemovalSentinel.REMOVE
        name = cst.Name(tile)
        reduced = one.call.with_changes(args=[one.call.args[0].with_changes(value=name), *one.call.args[1:]])
        behind += statements(_join(tl, one.total, code_of(reduced), one.join) + "\n")
    body = cst.ensure_type(replace_inside(loop, changes), cst.For)
    return cst.FlattenSentinel([*before, body, *behind])


def _join(tl: str, name: str, term: str, join: str) -> str:
    return f"{name} += {term}" if join == "add" else f"{name} = {tl}.{join}({name}, {term})"


def _in_place_of(line: cst.SimpleStatementLine, text: str) -> cst.SimpleStatementLine:
    new = cst.ensure_type(statements(text + "\n")[0], cst.SimpleStatementLine)
    return new.with_changes(leading_lines=line.leading_lines, trailing_whitespace=line.trailing_whitespace)
