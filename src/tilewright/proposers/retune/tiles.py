"""Which constexpr block sizes of a kernel are free: any power of two keeps the kernel's meaning."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from tilewright.proposers.retune.flow import Flow
from tilewright.proposers.retune.trees import ancestors, dotted_name, integer_value, names_in, squeezed, walk

_SHAPED = ("zeros", "full", "reshape", "view", "broadcast_to", "static_assert", "multiple_of", "max_contiguous")


@dataclass(frozen=True)
class FreeTile:
    """A tile size that may be any power of two: what it does not cover, the grid or a loop does."""

    name: str
    by_program: bool
    by_loop: bool


def free_tiles(flow: Flow) -> tuple[FreeTile, ...]:
    """The constexpr parameters of a kernel that are free tile sizes."""
    found = (_free_tile(flow, name) for name in flow.kernel.constexprs)
    return tuple(tile for tile in found if tile is not None)


def _free_tile(flow: Flow, name: str) -> FreeTile | None:
    """A tile is free when each `tl.arange(0, T)` is moved on by a program's or a loop's multiple of T."""
    uses = [node for node in flow.nodes if isinstance(node, cst.Name) and node.value == name]
    ranges = [node for node in flow.calls("arange") if name in names_in(node)]
    if not ranges or name in flow.definitions or not all(_proper_use(flow, use) for use in uses):
        return None
    advances = [_advance(flow, call, name) for call in ranges]
    if any(how is None for how in advances):
        return None
    return FreeTile(name, "program" in advances, "loop" in advances)


def _proper_use(flow: Flow, use: cst.Name) -> bool:
    """One occurrence of a tile's name, in a place where any size is right."""
    parent = flow.parents[use]
    if isinstance(parent, cst.Arg):
        call = flow.parents[parent]
        if isinstance(call, cst.Call):
            position = list(call.args).index(parent)
            called = flow.called(call) or dotted_name(call.func)
            proper = {"arange": 1, "cdiv": 1, "triton.cdiv": 1, "range": 2, "static_range": 2}.get(called)
            return proper == position or called in _SHAPED
    if isinstance(parent, cst.Element):
        return any(flow.is_call(outer, *_SHAPED) for outer in ancestors(parent, flow.parents))
    if isinstance(parent, cst.BinaryOperation):
        return isinstance(parent.operator, cst.Multiply) or _rounding_up(flow, use, parent)
    return False


def _rounding_up(flow: Flow, use: cst.Name, parent: cst.BinaryOperation) -> bool:
    """Part of `(X + T - 1) // T`."""
    for outer in (parent, *ancestors(parent, flow.parents)):
        if isinstance(outer, cst.BinaryOperation) and isinstance(outer.operator, cst.FloorDivide):
            return squeezed(outer).endswith(f"+{use.value}-1)//{use.value}")
        if not isinstance(outer, cst.BinaryOperation):
            return False
    return False


def _advance(flow: Flow, call: cst.Call, tile: str) -> str | None:
    """`program` or `loop`: what moves a range of `tile` elements on; None where nothing does."""
    if len(call.args) != 2 or squeezed(call.args[1].value) != tile or integer_value(call.args[0].value) != 0:
        return None
    return _advance_of_value(flow, call, tile, depth=0)


def _advance_of_value(flow: Flow, node: cst.BaseExpression, tile: str, depth: int) -> str | None:
    """Follow a range outwards through sums; at a name, every use of it must be moved on."""
    if depth > 4:
        return None
    current: cst.CSTNode = node
    while True:
        parent = flow.parents[current]
        if isinstance(parent, cst.BinaryOperation) and isinstance(parent.operator, cst.Add):
            other = parent.right if parent.left is current else parent.left
            how = _moves(flow, other, tile)
            if how is not None:
                return how
            current = parent
        elif _is_wrapper(flow, parent, current) or (
            isinstance(parent, cst.BinaryOperation) and isinstance(parent.operator, cst.Multiply)
        ):
            current = parent
        elif isinstance(parent, cst.Comparison | cst.ComparisonTarget):
            whole = parent if isinstance(parent, cst.Comparison) else flow.parents[parent]
            return "loop" if _compares_with_rest(flow, whole, tile) else None
        elif isinstance(parent, cst.Assign) and isinstance(parent.targets[0].target, cst.Name):
            return _advance_of_name(flow, parent.targets[0].target.value, tile, depth)
        elif isinstance(parent, cst.Arg) and flow.is_call(flow.parents[parent], "load", "store"):
            return None
        else:
            return None


def _is_wrapper(flow: Flow, parent: cst.CSTNode, child: cst.CSTNode) -> bool:
    if isinstance(parent, cst.Arg):
        return flow.is_call(flow.parents[parent], "multiple_of", "max_contiguous")
    if isinstance(parent, cst.Call):
        return flow.is_call(parent, "multiple_of", "max_contiguous")
    return isinstance(parent, cst.Subscript) and parent.value is child


def _advance_of_name(flow: Flow, name: str, tile: str, depth: int) -> str | None:
    if len(flow.definitions.get(name, ())) != 1:
        return _pointer_bump(flow, name, tile)
    uses = [
        node for node in flow.nodes if isinstance(node, cst.Name) and node.value == name and not _is_target(flow, node)
    ]
    found = [_advance_of_value(flow, use, tile, depth + 1) for use in uses]
    if not found or any(how is None for how in found):
        return None
    return "loop" if "loop" in found else "program"


def _is_target(flow: Flow, node: cst.Name) -> bool:
    return isinstance(flow.parents[node], cst.AssignTarget)


def _pointer_bump(flow: Flow, name: str, tile: str) -> str | None:
    """`p += T * stride` in a loop."""
    for definition in flow.definitions.get(name, ()):
        node = definition.node
        if isinstance(node, cst.AugAssign) and definition.in_loop and isinstance(node.operator, cst.AddAssign):
            factors = _factors(node.value)
            if any(isinstance(factor, cst.Name) and factor.value == tile for factor in factors):
                return "loop"
    return None


def _compares_with_rest(flow: Flow, comparison: cst.CSTNode, tile: str) -> bool:
    """`offs_k < K - k * T` in a loop over k."""
    products = [
        node
        for node in walk(comparison)
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Multiply)
    ]
    return any(_moves(flow, product, tile) == "loop" for product in products)


def _moves(flow: Flow, node: cst.BaseExpression, tile: str) -> str | None:
    """Whether a term is the place of a tile: `pid * T`, `i * T` in a loop over i, or the variable of a loop by T."""
    for term in flow.terms(node):
        if isinstance(term, cst.Name):
            loops = flow.loops_of(term.value)
            if loops and all(_steps_by(loop, tile) for loop in loops):
                return "loop"
        factors = _factors(term)
        if len(factors) < 2 or not any(isinstance(f, cst.Name) and f.value == tile for f in factors):
            continue
        others = [factor for factor in factors if not (isinstance(factor, cst.Name) and factor.value == tile)]
        if len(others) == 1 and isinstance(others[0], cst.Name) and flow.loops_of(others[0].value):
            return "loop"
        if len(others) == 1 and flow.varies_by_program(others[0]):
            return "program"
    return None


def _steps_by(loop: cst.For, tile: str) -> bool:
    call = loop.iter
    if not isinstance(call, cst.Call) or len(call.args) < 3:
        return False
    return squeezed(call.args[2].value) == tile


def _factors(node: cst.BaseExpression) -> list[cst.BaseExpression]:
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Multiply):
        return _factors(node.left) + _factors(node.right)
    return [node]
