"""Program order: which tile of the grid each program takes. A permutation of the grid, so that the meaning stays."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from tilewright.proposers.retune.edit import Context, Proposal, Subject
from tilewright.proposers.retune.facts import has_dot
from tilewright.proposers.retune.flow import Definition
from tilewright.proposers.retune.host import HostScope
from tilewright.proposers.retune.trees import expression, replace_nodes, squeezed, statement_of, statements

#: Rows of tiles that a group of programs works on together.
_GROUPS = (8, 4)


def group_programs(subject: Subject, context: Context) -> Iterator[Proposal]:
    """Tiles of a matrix product row by row -> in groups of rows, so that neighbours share operands in L2."""
    del context
    if not has_dot(subject.flow) or _is_ordered(subject):
        return
    for group in _GROUPS:
        source = _grouped_axes(subject, group) or _grouped_digits(subject, group)
        if source is not None:
            yield Proposal(source, f"programs in groups of {group} rows of tiles", 1.11 + group / 1e3)


def turn_programs(subject: Subject, context: Context) -> Iterator[Proposal]:
    """Axis 0 of the grid fastest -> axis 1 fastest."""
    del context
    calls = {subject.flow.program_axis(call): call for call in subject.flow.calls("program_id")}
    is_once = len(calls) == len(subject.flow.calls("program_id")) and set(calls) == {0, 1}
    if has_dot(subject.flow) or _is_ordered(subject) or not is_once or not _has_two_axes(subject):
        return
    language = subject.view.language
    place = f"({language}.program_id(1) * {language}.num_programs(0) + {language}.program_id(0))"
    texts = {0: f"({place} // {language}.num_programs(1))", 1: f"({place} % {language}.num_programs(1))"}
    changes = {calls[axis]: expression(text) for axis, text in texts.items()}
    source = replace_nodes(subject.view.module, changes).code
    yield Proposal(source, "programs along axis 1 of the grid follow one another", 1.03)


def _is_ordered(subject: Subject) -> bool:
    """The kernel arranges its programs itself."""
    return bool(subject.flow.calls("swizzle2d", "num_programs"))


def _named_axes(subject: Subject) -> dict[int, Definition]:
    """Axis -> the one definition that is `name = tl.program_id(axis)`; empty where program_id stands elsewhere."""
    flow = subject.flow
    found: dict[int, Definition] = {}
    for name, definitions in flow.definitions.items():
        value = flow.single(name)
        if value is not None and flow.is_call(value, "program_id") and not definitions[0].in_loop:
            axis = flow.program_axis(value)
            if axis is None or axis in found:
                return {}
            found[axis] = definitions[0]
    return found if len(found) == len(flow.calls("program_id")) else {}


def _has_two_axes(subject: Subject) -> bool:
    return all(len(HostScope(subject.view, site).axes() or ()) == 2 for site in subject.kernel.launches)


def _value(definition: Definition) -> cst.BaseExpression:
    if definition.value is None:
        raise ValueError("a definition without a value")
    return definition.value


def _name(definition: Definition) -> str:
    node = cst.ensure_type(definition.node, cst.Assign)
    return cst.ensure_type(node.targets[0].target, cst.Name).value


def _grouped_axes(subject: Subject, group: int) -> str | None:
    """`m = tl.program_id(0)`, `n = tl.program_id(1)` -> both by `tl.swizzle2d`."""
    axes = _named_axes(subject)
    if set(axes) != {0, 1} or not _has_two_axes(subject):
        return None
    language = subject.view.language
    place = f"{language}.program_id(1) * {language}.num_programs(0) + {language}.program_id(0)"
    sizes = f"{language}.num_programs(0), {language}.num_programs(1)"
    return _swizzled(subject, axes[0], axes[1], place, sizes, group)


def _grouped_digits(subject: Subject, group: int) -> str | None:
    """`m = pid // columns`, `n = pid % columns` of one axis -> both by `tl.swizzle2d`."""
    flow = subject.flow
    axes = _named_axes(subject)
    if set(axes) != {0}:
        return None
    index = _name(axes[0])
    high = [d for d in _singles(subject) if _is_operation(_value(d), cst.FloorDivide, index)]
    low = [d for d in _singles(subject) if _is_operation(_value(d), cst.Modulo, index)]
    if len(high) != 1 or len(low) != 1:
        return None
    columns = cst.ensure_type(_value(high[0]), cst.BinaryOperation).right
    if squeezed(columns) != squeezed(cst.ensure_type(_value(low[0]), cst.BinaryOperation).right):
        return None
    uses = [node for node in flow.nodes if isinstance(node, cst.Name) and node.value == index]
    if len(uses) != 3:
        return None
    name = squeezed(columns)
    sizes = f"{subject.view.language}.num_programs(0) // {name}, {name}"
    return _swizzled(subject, high[0], low[0], index, sizes, group)


def _singles(subject: Subject) -> list[Definition]:
    return [found[0] for name, found in subject.flow.definitions.items() if subject.flow.single(name) is not None]


def _is_operation(node: cst.BaseExpression, operator: type[cst.BaseBinaryOp], left: str) -> bool:
    if not (isinstance(node, cst.BinaryOperation) and isinstance(node.operator, operator)):
        return False
    return squeezed(node.left) == left and isinstance(node.right, cst.Name)


def _swizzled(subject: Subject, row: Definition, column: Definition, place: str, sizes: str, group: int) -> str | None:
    """The two definitions become one; it stands where the later of them stood."""
    lines = [statement_of(definition.node, subject.flow.parents) for definition in (row, column)]
    if lines[0] is None or lines[1] is None:
        return None
    block = subject.flow.parents[lines[0]]
    if block is not subject.flow.parents[lines[1]] or not isinstance(block, cst.IndentedBlock):
        return None
    later, earlier = (lines[1], lines[0]) if _comes_after(block, lines[1], lines[0]) else (lines[0], lines[1])
    call = f"{subject.view.language}.swizzle2d(\n    0, {place},\n    {sizes}, {group},\n)"
    (new,) = statements(f"{_name(row)}, {_name(column)} = {call}\n")
    kept = [*earlier.leading_lines, *later.leading_lines]
    line = cst.ensure_type(new, cst.SimpleStatementLine)
    comment = cst.EmptyLine(comment=cst.Comment(f"# Groups of {group} rows of tiles: neighbours share operands in L2."))
    line = line.with_changes(leading_lines=[*kept, comment])
    return replace_nodes(subject.view.module, {later: line, earlier: cst.RemoveFromParent()}).code


def _comes_after(block: cst.IndentedBlock, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    order = [id(statement) for statement in block.body]
    return order.index(id(one)) > order.index(id(other))
