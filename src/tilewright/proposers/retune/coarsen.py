"""Several programs made one: a program's scalar index becomes a block of neighbouring indices.

`p = tl.program_id(a)` -> `p = tl.program_id(a) * B + tl.arange(0, B)`, with a trailing axis of B elements for every
value that depends on it. Neighbours in memory that were read by different programs are then read together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from tilewright.proposers.retune.edit import Context, Proposal, Subject, subject_of
from tilewright.proposers.retune.facts import has_dot
from tilewright.proposers.retune.host import HostScope
from tilewright.proposers.retune.lift import Lift, LiftRefused
from tilewright.proposers.retune.schedule_edits import (
    kernel_advice,
    launch_options,
    set_launch_options,
    sized_extents,
)
from tilewright.proposers.retune.signatures import fresh_name, is_pure, with_argument
from tilewright.proposers.retune.trees import dotted_name, expression, integer_value, replace_nodes, squeezed
from tilewright.proposers.retune.view import LaunchSite

#: Neighbours that one program takes: 8 float32 fill a sector of 32 bytes.
_BLOCKS = (8, 4, 16, 32)
#: Where neighbours are far apart, a few together still share what they all load.
_FEW = (4, 16)
#: Elements of a thread beyond which registers run out; beyond so many times that, nothing but spills and minutes of
#: compilation come of it.
_MOST_FOR_A_THREAD = 64
_HOPELESS = 2


@dataclass(frozen=True)
class _Axis:
    """A grid axis whose programs each take one index."""

    name: str
    axis: int
    count: str
    is_new: bool
    extents: tuple[cst.BaseExpression, ...]


@dataclass(frozen=True)
class _Lifted:
    """A kernel's new body, and the name of the block size in it."""

    body: cst.IndentedBlock
    block_name: str


def coarsen_programs(subject: Subject, context: Context) -> Iterator[Proposal]:
    """One index for each program -> a block of neighbouring indices for each program."""
    if has_dot(subject.flow) or not subject.kernel.is_plainly_launched or subject.flow.has_block_pointers:
        return
    for axis in _axes(subject):
        block_name = fresh_name(subject.view, _block_name(axis.name))
        try:
            body = Lift(
                subject.flow, axis.name, axis.count, block_name, fresh_name(subject.view, f"{axis.name}_mask")
            ).body()
        except LiftRefused:
            continue
        lifted = _Lifted(body, block_name)
        strided = _is_strided(subject, axis)
        for block in _BLOCKS if strided else _FEW:
            yield from _proposal(subject, context, axis, lifted, block, strided=strided)


def _axes(subject: Subject) -> Iterator[_Axis]:
    flow = subject.flow
    for name in flow.definitions:
        value = flow.single(name)
        axis = flow.program_axis(value) if value is not None else None
        if axis is None or flow.definitions[name][0].in_loop or isinstance(value, cst.Name):
            continue
        if _takes_a_tile(subject, name):
            continue
        extents = [HostScope(subject.view, site).axis(axis) for site in subject.kernel.launches]
        known = tuple(extent for extent in extents if extent is not None)
        if len(known) != len(extents) or _shared(subject, known) or not all(is_pure(extent) for extent in known):
            continue
        count = _count_argument(subject, known)
        yield _Axis(name, axis, count or fresh_name(subject.view, f"{name}_count"), count is None, known)


def _takes_a_tile(subject: Subject, name: str) -> bool:
    """Each program has a tile of the axis already: `p * BLOCK`."""
    constexprs = set(subject.kernel.constexprs)
    for node in subject.flow.nodes:
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Multiply):
            sides = {squeezed(node.left), squeezed(node.right)}
            if name in sides and sides & constexprs:
                return True
    return False


def _count_argument(subject: Subject, extents: tuple[cst.BaseExpression, ...]) -> str | None:
    """The integer argument that every launch gives the axis's own extent."""
    for name in (*subject.flow.integers, *subject.kernel.constexprs):
        if all(_gives(site, name, extent) for site, extent in zip(subject.kernel.launches, extents, strict=True)):
            return name
    return None


def _gives(site: LaunchSite, name: str, extent: cst.BaseExpression) -> bool:
    arg = site.bound.get(name)
    return arg is not None and squeezed(arg.value) == squeezed(extent)


def _shared(subject: Subject, extents: tuple[cst.BaseExpression, ...]) -> bool:
    """Whether the grid of another launch is written with the same words."""
    for kernel in subject.view.kernels:
        for site in kernel.launches:
            if kernel.name != subject.name and any(
                axis is extent for axis in HostScope(subject.view, site).axes() or [] for extent in extents
            ):
                return True
    return False


def _is_strided(subject: Subject, axis: _Axis) -> bool:
    """Neighbouring indices of the axis are neighbours in memory, as far as the launches show."""
    for call in subject.flow.loads:
        for term in subject.flow.terms(call.args[0].value):
            if isinstance(term, cst.Name) and term.value == axis.name:
                return True
            if isinstance(term, cst.BinaryOperation) and isinstance(term.operator, cst.Multiply):
                sides = {squeezed(term.left): term.right, squeezed(term.right): term.left}
                other = sides.get(axis.name)
                if isinstance(other, cst.Name) and _is_innermost(subject, other.value):
                    return True
    return False


def _is_innermost(subject: Subject, name: str) -> bool:
    """`x.stride(k)` with the largest k that the launch asks of x, or -1."""
    for site in subject.kernel.launches:
        arg = site.bound.get(name)
        found = _stride_of(arg.value) if arg is not None else None
        if found is None:
            return False
        tensor, dim = found
        others = [_stride_of(other.value) for other in site.call.args]
        most = max(other[1] for other in others if other is not None and other[0] == tensor)
        if dim != -1 and (dim != most or most == 0):
            return False
    return True


def _stride_of(node: cst.BaseExpression) -> tuple[str, int] | None:
    if not (isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and len(node.args) == 1):
        return None
    if node.func.attr.value != "stride":
        return None
    value = node.args[0].value
    if isinstance(value, cst.UnaryOperation) and isinstance(value.operator, cst.Minus):
        inner = integer_value(value.expression)
        return None if inner is None else (squeezed(node.func.value), -inner)
    dim = integer_value(value)
    return None if dim is None else (dotted_name(node.func.value) or squeezed(node.func.value), dim)


def _proposal(
    subject: Subject, context: Context, axis: _Axis, lifted: _Lifted, block: int, *, strided: bool
) -> Iterator[Proposal]:
    total = block
    for extent in sized_extents(subject):
        total *= extent.size
    allowed = kernel_advice(subject, context).num_warps
    if total > _HOPELESS * 32 * max(allowed) * _MOST_FOR_A_THREAD:
        return
    source = _edited(subject, axis, lifted, block)
    fitting = [warps for warps in sorted(allowed) if total <= 32 * warps * _MOST_FOR_A_THREAD]
    current = launch_options(subject.kernel)
    gain = _gain(block, strided=strided, fits=bool(fitting))
    words = f"{block} neighbours along {axis.name} for each program"
    if current is None or (fitting and fitting[0] <= current[0]):
        yield Proposal(source, words, gain)
        return
    warps = fitting[0] if fitting else max(allowed)
    edited = subject_of(source, subject.name)
    if edited is not None and warps != current[0]:
        module = set_launch_options(edited.view, edited.kernel, {"num_warps": str(warps)})
        yield Proposal(module.code, f"{words}, {warps} warps", gain)


def _gain(block: int, *, strided: bool, fits: bool) -> float:
    """Sectors that are used whole, against registers that run out."""
    whole = {4: 2.0, 8: 3.0, 16: 2.6, 32: 2.2}[block] if strided else {4: 1.05, 16: 1.04}[block]
    return whole if fits else whole * 0.4


def _edited(subject: Subject, axis: _Axis, lifted: _Lifted, block: int) -> str:
    changes: dict[cst.CSTNode, cst.CSTNode] = {extent: _divided(extent, block) for extent in axis.extents}
    changes[subject.kernel.function.body] = lifted.body
    source = replace_nodes(subject.view.module, changes).code
    launches = len(subject.kernel.launches)
    if axis.is_new:
        source = with_argument(source, subject.name, axis.count, [squeezed(extent) for extent in axis.extents])
    return with_argument(source, subject.name, lifted.block_name, [str(block)] * launches, constexpr=True)


def _block_name(index: str) -> str:
    for prefix in ("pid_", "program_"):
        index = index.removeprefix(prefix)
    return f"BLOCK_{index.upper()}"


def _divided(extent: cst.BaseExpression, block: int) -> cst.BaseExpression:
    call = cst.ensure_type(expression(f"triton.cdiv(extent, {block})"), cst.Call)
    return call.with_changes(args=[call.args[0].with_changes(value=extent), call.args[1]])
