"""How memory is asked for: cache hints, sizes told at compile time, masks that whole tiles do not need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import libcst as cst

from tilewright.proposers.retune.edit import Context, Proposal, Subject, subject_of
from tilewright.proposers.retune.facts import has_dot
from tilewright.proposers.retune.flow import Flow
from tilewright.proposers.retune.host import HostScope
from tilewright.proposers.retune.tiles import FreeTile, free_tiles
from tilewright.proposers.retune.trees import (
    code_of,
    dotted_name,
    expression,
    keyword,
    names_in,
    replace_nodes,
    squeezed,
    walk,
    with_keywords,
)
from tilewright.proposers.retune.view import LaunchSite

#: Calls that want a run-time value, and calls of Python that do not care.
_TAKE_VALUES = ("multiple_of", "max_contiguous", "assume", "cast", "full", "device_print")
_PLAIN_CALLS = ("range", "min", "max")

# -- cache hints -------------------------------------------------------------------------------------------------


def cache_hints(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`tl.load(p)` -> the same with where it should stay: streams leave first, what all programs share stays."""
    del context
    flow = subject.flow
    if has_dot(flow) or any(
        keyword(call, name) for call in flow.loads for name in ("eviction_policy", "cache_modifier")
    ):
        return
    policies = {call: _policy(flow, call) for call in flow.loads}
    hinted = {call: with_keywords(call, {"eviction_policy": f'"{p}"'}) for call, p in policies.items() if p}
    if hinted:
        source = replace_nodes(subject.view.module, _outermost(hinted)).code
        yield Proposal(source, "eviction hints on loads", 1.01)
    streams = [call for call, policy in policies.items() if policy == "evict_first" and _is_last(flow, call)]
    bypassed = {call: with_keywords(call, {"cache_modifier": '".cg"'}) for call in streams}
    if bypassed:
        source = replace_nodes(subject.view.module, _outermost(bypassed)).code
        yield Proposal(source, "streamed loads past L1", 1.005)


def _policy(flow: Flow, call: cst.Call) -> str | None:
    """`evict_last` for what is read again, by this program or by others; `evict_first` for what is read once."""
    if keyword(call, "volatile") is not None or not call.args:
        return None
    if not flow.varies_by_program(call.args[0].value):
        return "evict_last"
    return "evict_first" if _is_last(flow, call) else "evict_last"


def _is_last(flow: Flow, call: cst.Call) -> bool:
    """The last of the loads that start from the same pointer."""
    pointers = flow.pointers
    root = flow.reach(call.args[0].value) & pointers
    same = [other for other in flow.loads if other.args and flow.reach(other.args[0].value) & pointers == root]
    return same[-1] is call


def _outermost(changes: dict[cst.Call, cst.Call]) -> dict[cst.CSTNode, cst.CSTNode]:
    """Without calls that lie inside another of them: one replacement at a time."""
    inner = {node for call in changes for node in walk(call) if node is not call}
    return {call: new for call, new in changes.items() if call not in inner}


# -- sizes as constants --------------------------------------------------------------------------------------------


def constant_sizes(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`def k(..., W, ...)` -> `W: tl.constexpr`: divisions, loop bounds and offsets known to the compiler.

    The kernel is then compiled once for each set of sizes.
    """
    del context
    decisive = [
        name for name in subject.flow.integers if _may_be_constant(subject, name) and _is_decisive(subject, name)
    ]
    every = [name for name in subject.flow.integers if _may_be_constant(subject, name)]
    for names, gain in ((decisive, 1.06), (every, 1.04)):
        if names:
            yield Proposal(with_constants(subject, names), f"{', '.join(names)} known at compile time", gain)


def with_constants(subject: Subject, names: Iterable[str]) -> str:
    """The module with parameters of a kernel made `tl.constexpr`."""
    annotation = cst.Annotation(
        expression(f"{subject.view.language}.constexpr"), whitespace_before_indicator=cst.SimpleWhitespace("")
    )
    wanted = set(names)
    changes = {
        parameter.node: parameter.node.with_changes(annotation=annotation)
        for parameter in subject.kernel.parameters
        if parameter.name in wanted
    }
    return replace_nodes(subject.view.module, changes).code


def _may_be_constant(subject: Subject, name: str) -> bool:
    """Only read, in arithmetic: no method of a tensor is called on it, no hint, no other function is given it."""
    kernel, flow = subject.kernel, subject.flow
    for decorator in kernel.function.decorators:
        call = decorator.decorator
        if isinstance(call, cst.Call) and dotted_name(call.func).endswith("jit"):
            return False
    for node in flow.nodes:
        if isinstance(node, cst.Attribute) and isinstance(node.value, cst.Name) and node.value.value == name:
            return False
        if flow.is_call(node, *_TAKE_VALUES) and name in names_in(node):
            return False
        if isinstance(node, cst.Call) and not flow.called(node) and dotted_name(node.func) not in _PLAIN_CALLS:
            given = [arg.value for arg in node.args if isinstance(arg.value, cst.Name)]
            if name in {value.value for value in given}:
                return False
    return True


def _is_decisive(subject: Subject, name: str) -> bool:
    """In a division or a remainder, or in a loop's bounds."""
    flow = subject.flow
    for node in flow.nodes:
        is_division = isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.FloorDivide | cst.Modulo)
        if is_division and name in _expanded_names(flow, cst.ensure_type(node, cst.BinaryOperation).right):
            return True
        if isinstance(node, cst.For) and name in _expanded_names(flow, node.iter):
            return True
    return False


def _expanded_names(flow: Flow, node: cst.BaseExpression) -> set[str]:
    return {part.value for part in flow.expanded(node) if isinstance(part, cst.Name)}


# -- masks ---------------------------------------------------------------------------------------------------------


def even_masks(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`o < X` -> `(o < X) | (X % T == 0)`, X a constant: a mask that whole tiles do not need is folded away.

    Holds where the offsets are tiles of T that the grid, or the loop around them, counts out exactly.
    """
    flow = subject.flow
    tiles = free_tiles(flow)
    changes: dict[cst.CSTNode, cst.CSTNode] = {}
    sizes: Counter[str] = Counter()
    for node in flow.nodes:
        if not (isinstance(node, cst.Comparison) and len(node.comparisons) == 1):
            continue
        for tile in tiles:
            bound = _bound(subject, node, tile)
            if bound is not None and context.is_given(bound):
                text = f"({one_line(node)}) | ({bound} % {tile.name} == 0)"
                changes[node] = expression(f"({text})")
                sizes[bound] += 1
    known = [name for name in sizes if name not in subject.kernel.constexprs]
    if not changes or not all(_may_be_constant(subject, name) for name in known):
        return
    edited = subject_of(replace_nodes(subject.view.module, changes).code, subject.name)
    if edited is not None:
        source = with_constants(edited, known)
        words = f"no masks where {', '.join(sizes)} are whole tiles, sizes known at compile time"
        yield Proposal(source, words, 1.07)


def one_line(node: cst.CSTNode) -> str:
    """An expression on one line, as it reads."""
    if isinstance(node, cst.Comparison) and node.lpar:
        node = node.with_changes(lpar=[], rpar=[])
    return " ".join(code_of(node).split())


def _bound(subject: Subject, node: cst.Comparison, tile: FreeTile) -> str | None:
    """The size X of `o < X` (or `o < X - i * T`), where o are the offsets of tiles of T that end with X."""
    target = node.comparisons[0]
    if not isinstance(target.operator, cst.LessThan):
        return None
    flow, right = subject.flow, target.comparator
    terms = [_at_once(flow, term) for term in flow.terms(node.left)]
    ranges = [t for t in terms if flow.is_call(t, "arange") and tile.name in names_in(t)]
    others = [t for t in terms if not any(t is r for r in ranges)]
    if len(ranges) != 1:
        return None
    if isinstance(right, cst.Name) and len(others) == 1 and _is_size(subject, right.value):
        return right.value if _counts_out(subject, others[0], right, tile) else None
    if isinstance(right, cst.BinaryOperation) and isinstance(right.operator, cst.Subtract) and not others:
        size = right.left
        if isinstance(size, cst.Name) and _is_size(subject, size.value):
            return size.value if _counts_out(subject, right.right, size, tile) else None
    return None


def _at_once(flow: Flow, term: cst.BaseExpression) -> cst.BaseExpression:
    """What a name stands for, where that is a range."""
    value = flow.single(term.value) if isinstance(term, cst.Name) else None
    return value if value is not None and flow.is_call(value, "arange") else term


def _is_size(subject: Subject, name: str) -> bool:
    return name in subject.flow.integers or name in subject.kernel.constexprs


def _counts_out(subject: Subject, start: cst.BaseExpression, size: cst.Name, tile: FreeTile) -> bool:
    """Whether the tiles that begin at `start` are those of `size` and no others."""
    flow = subject.flow
    if isinstance(start, cst.Name):
        loops = flow.loops_of(start.value)
        texts = {f"0,{size.value},{tile.name}"}
        return bool(loops) and all(_range_text(loop) in texts for loop in loops)
    if not (isinstance(start, cst.BinaryOperation) and isinstance(start.operator, cst.Multiply)):
        return False
    sides = [start.left, start.right]
    index = [side for side in sides if squeezed(side) != tile.name]
    if len(index) != 1 or not isinstance(index[0], cst.Name | cst.Call):
        return False
    if isinstance(index[0], cst.Name) and (loops := flow.loops_of(index[0].value)):
        language = subject.view.language
        cdivs = [f"{prefix}.cdiv({size.value},{tile.name})" for prefix in (language, "triton")]
        texts = {text for c in cdivs for text in (c, f"0,{c}", f"0,{c},1")}
        return all(_range_text(loop, flow) in texts for loop in loops)
    axis = flow.program_axis(index[0])
    return axis is not None and all(
        _grid_counts(subject, site, axis, size.value, tile) for site in subject.kernel.launches
    )


def _range_text(loop: cst.For, flow: Flow | None = None) -> str:
    """The arguments of a loop's range; a name for the number of tiles is spelled out."""
    if not isinstance(loop.iter, cst.Call):
        return ""
    parts: list[str] = []
    for arg in loop.iter.args:
        value = arg.value
        if flow is not None and isinstance(value, cst.Name):
            value = flow.single(value.value) or value
        parts.append(squeezed(value))
    return ",".join(parts)


def _grid_counts(subject: Subject, site: LaunchSite, axis: int, size: str, tile: FreeTile) -> bool:
    """The grid's entry is `cdiv(size, tile)` in the launch's own words."""
    scope = HostScope(subject.view, site)
    entry = scope.axis(axis)
    if isinstance(entry, cst.Name):
        entry = scope.certain(entry.value)
    if not (isinstance(entry, cst.Call) and dotted_name(entry.func).endswith("cdiv") and len(entry.args) == 2):
        return False
    given, block = site.bound.get(size), site.bound.get(tile.name)
    if given is None or squeezed(given.value) != squeezed(entry.args[0].value):
        return False
    divisor = entry.args[1].value
    if isinstance(divisor, cst.Subscript):
        return any(isinstance(part, cst.SimpleString) and part.evaluated_value == tile.name for part in walk(divisor))
    return block is not None and squeezed(block.value) == squeezed(divisor)
