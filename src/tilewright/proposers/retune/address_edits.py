"""Division and remainder taken out of addresses: the digits of an index, put together again by strides that fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import libcst as cst

from tilewright.proposers.retune.edit import Context, Proposal, Subject
from tilewright.proposers.retune.facts import in_loop
from tilewright.proposers.retune.flow import Flow
from tilewright.proposers.retune.signatures import argument_text, fresh_name, is_pure, with_argument
from tilewright.proposers.retune.trees import (
    ancestors,
    replace_nodes,
    statement_of,
    statements,
    walk,
)

Factors = tuple[str, ...]


@dataclass(frozen=True)
class Digit:
    """`(base // divisor) % modulus`, or without the modulus: one coordinate of a flat index.

    Divisor and modulus are products, as sorted factors.
    """

    name: str
    base: str
    divisor: Factors
    modulus: Factors | None


@dataclass(frozen=True)
class Occurrence:
    """A digit in one address: the leaf that names it, and what it is multiplied by."""

    digit: Digit
    leaf: cst.Name
    stride: Factors


@dataclass(frozen=True)
class Joint:
    """Two neighbouring digits of an address that are one: `stride_high == modulus_low * stride_low`."""

    stride_high: Factors
    modulus_low: Factors
    stride_low: Factors

    @property
    def is_certain(self) -> bool:
        """True whatever the arguments are."""
        return _product(self.stride_high) == _product((*self.modulus_low, *self.stride_low))


def flatten_addresses(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`h * stride_h + w * stride_w`, `h = o // W`, `w = o % W` -> `o * stride_w` where `stride_h == W * stride_w`.

    Where the launch's own arguments decide, it is told at the launch, and the given form stays for the other case.
    """
    flow = subject.flow
    if flow.has_block_pointers or not subject.kernel.is_plainly_launched:
        return
    digits = _digits(flow)
    for base in dict.fromkeys(digit.base for digit in digits.values()):
        source = _flattened(subject, base, {n: d for n, d in digits.items() if d.base == base})
        if source is not None:
            yield Proposal(source, f"addresses of {base} without division", _gain(subject))


def _gain(subject: Subject) -> float:
    """Divisions cost most where they stand in the way of vector loads, in a loop above all."""
    return 1.3 if any(in_loop(call, subject.flow) for call in subject.flow.loads) else 1.15


# -- digits -----------------------------------------------------------------------------------------------------


def _digits(flow: Flow) -> dict[str, Digit]:
    """The names of a kernel that are digits of another name."""
    found: dict[str, Digit] = {}
    for name in flow.definitions:
        value = flow.single(name)
        digit = _digit(flow, name, value) if value is not None else None
        if digit is not None:
            found[name] = digit
    return found


def _digit(flow: Flow, name: str, value: cst.BaseExpression) -> Digit | None:
    divisor: Factors = ()
    modulus: Factors | None = None
    current = value
    for _ in range(12):
        if isinstance(current, cst.BinaryOperation) and isinstance(current.operator, cst.Modulo):
            inner = factors(flow, current.right)
            if inner is None:
                return None
            # (x % m) // d is (x // d) % (m / d) where d divides m; of two moduli the one that divides stays.
            reduced = _without(inner, divisor)
            if reduced is None or (modulus is not None and _without(reduced, modulus) is None):
                return None
            modulus = reduced if modulus is None else modulus
            current = current.left
        elif isinstance(current, cst.BinaryOperation) and isinstance(current.operator, cst.FloorDivide):
            inner = factors(flow, current.right)
            if inner is None or (modulus is not None and current is value):
                return None
            divisor = _product((*divisor, *inner))
            current = current.left
        elif isinstance(current, cst.Name):
            deeper = flow.single(current.value)
            if not (
                isinstance(deeper, cst.BinaryOperation) and isinstance(deeper.operator, cst.FloorDivide | cst.Modulo)
            ):
                break
            current = deeper
        else:
            break
    if not isinstance(current, cst.Name) or (not divisor and modulus is None):
        return None
    return Digit(name, current.value, divisor, modulus)


def factors(flow: Flow, node: cst.BaseExpression) -> Factors | None:
    """A product of scalars as sorted factors, names that stand for products spelled out; None if it is none."""
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Multiply):
        left, right = factors(flow, node.left), factors(flow, node.right)
        return None if left is None or right is None else _product((*left, *right))
    if isinstance(node, cst.Integer):
        return () if node.value == "1" else (node.value,)
    if isinstance(node, cst.Name):
        value = flow.single(node.value)
        if value is not None:
            return factors(flow, value)
        is_argument = any(parameter.name == node.value for parameter in flow.kernel.parameters)
        return (node.value,) if is_argument and node.value not in flow.definitions else None
    return None


def _product(values: Sequence[str]) -> Factors:
    return tuple(sorted(values))


def _without(whole: Factors, part: Factors) -> Factors | None:
    """`whole / part`, where every factor of `part` is one of `whole`."""
    left = list(whole)
    for factor in part:
        if factor not in left:
            return None
        left.remove(factor)
    return tuple(left)


# -- addresses ----------------------------------------------------------------------------------------------------


def _products(flow: Flow, node: cst.BaseExpression, depth: int = 0) -> list[list[cst.BaseExpression]]:
    """An expression multiplied out: terms as lists of leaves, names inlined, shape expansions looked through."""
    inner = flow.looked_through(node)
    if inner is not node and depth < 40:
        return _products(flow, inner, depth + 1)
    if isinstance(node, cst.BinaryOperation) and depth < 40:
        if isinstance(node.operator, cst.Add):
            return _products(flow, node.left, depth + 1) + _products(flow, node.right, depth + 1)
        if isinstance(node.operator, cst.Multiply):
            left, right = _products(flow, node.left, depth + 1), _products(flow, node.right, depth + 1)
            return [one + other for one in left for other in right]
    if isinstance(node, cst.Name) and depth < 40:
        value = flow.single(node.value)
        if value is not None and (
            isinstance(value, cst.Name)
            or flow.looked_through(value) is not value
            or (isinstance(value, cst.BinaryOperation) and isinstance(value.operator, cst.Add | cst.Multiply))
        ):
            return _products(flow, value, depth + 1)
    return [[node]]


def _occurrences(flow: Flow, address: cst.BaseExpression, digits: Mapping[str, Digit]) -> list[Occurrence] | None:
    """The digits of an address, each once and linear; None where they are not."""
    found: list[Occurrence] = []
    for term in _products(flow, address):
        named = [leaf for leaf in term if isinstance(leaf, cst.Name) and leaf.value in digits]
        if not named:
            if any(flow.reach(leaf) & digits.keys() for leaf in term):
                return None
            continue
        stride = [factors(flow, leaf) for leaf in term if leaf is not named[0]]
        if len(named) > 1 or any(part is None for part in stride):
            return None
        flat = _product([name for part in stride if part is not None for name in part])
        found.append(Occurrence(digits[named[0].value], named[0], flat))
    names = [occurrence.digit.name for occurrence in found]
    return found if len(names) == len(set(names)) else None


def _joints(found: Sequence[Occurrence]) -> tuple[Joint, ...] | None:
    """The conditions under which all digits of an address are one index; None where they are not neighbours.

    The lowest has no divisor, each next one's divisor is what lies below it, the highest has no modulus.
    """
    ordered = sorted(found, key=lambda occurrence: len(occurrence.digit.divisor))
    if len(ordered) < 2 or ordered[0].digit.divisor or ordered[-1].digit.modulus is not None:
        return None
    joints: list[Joint] = []
    for low, high in itertools.pairwise(ordered):
        modulus = low.digit.modulus
        if modulus is None or _product((*low.digit.divisor, *modulus)) != high.digit.divisor:
            return None
        joints.append(Joint(high.stride, modulus, low.stride))
    return tuple(joints)


# -- the edit -------------------------------------------------------------------------------------------------------


def _flattened(subject: Subject, base: str, digits: Mapping[str, Digit]) -> str | None:
    """The module with the addresses of one base flattened, as far as they can be."""
    flow = subject.flow
    plans: dict[int, tuple[list[Occurrence], tuple[Joint, ...]]] = {}
    for index, call in enumerate([*flow.loads, *flow.stores]):
        found = _occurrences(flow, call.args[0].value, digits)
        joints = _joints(found) if found else None
        if found and joints:
            plans[index] = (found, joints)
    calls = [*flow.loads, *flow.stores]
    flat = {id(calls[index].args[0]): plan for index, plan in plans.items()}
    sound = [plan for plan in flat.values() if all(_stays_inside(flow, o.leaf, flat) for o in plan[0])]
    leaves = {occurrence.leaf: occurrence for plan, _ in sound for occurrence in plan}
    if not leaves:
        return None
    guard = _guard(subject, [joint for _, joints in sound for joint in joints])
    if guard is None:
        return None
    return _rewritten(subject, base, leaves, guard)


def _stays_inside(flow: Flow, leaf: cst.CSTNode, flat: Mapping[int, object], depth: int = 0) -> bool:
    """Whether a value goes, by sums and products alone, into addresses that are flattened and nowhere else."""
    if depth > 8:
        return False
    current: cst.CSTNode = leaf
    for outer in ancestors(leaf, flow.parents):
        if isinstance(outer, cst.Arg) and id(outer) in flat:
            return True
        if isinstance(outer, cst.Assign):
            target = outer.targets[0].target
            if len(outer.targets) != 1 or not isinstance(target, cst.Name) or flow.single(target.value) is None:
                return False
            uses = [
                node
                for node in flow.nodes
                if isinstance(node, cst.Name)
                and node.value == target.value
                and not isinstance(flow.parents[node], cst.AssignTarget)
            ]
            return bool(uses) and all(_stays_inside(flow, use, flat, depth + 1) for use in uses)
        is_linear = (
            (isinstance(outer, cst.BinaryOperation) and isinstance(outer.operator, cst.Add | cst.Multiply))
            or (isinstance(outer, cst.Subscript) and outer.value is current)
            or (isinstance(outer, cst.Arg) and flow.looked_through_call(flow.parents[outer]))
            or flow.looked_through_call(outer)
        )
        if not is_linear:
            return False
        current = outer
    return False


def _guard(subject: Subject, joints: Sequence[Joint]) -> list[str] | None:
    """The condition at each launch; empty texts where it always holds, None where it cannot be told."""
    open_joints = list(dict.fromkeys(joint for joint in joints if not joint.is_certain))
    texts: list[str] = []
    for site in subject.kernel.launches:
        parts: list[str] = []
        for joint in open_joints:
            sides: list[str] = []
            for side in (joint.stride_high, (*joint.modulus_low, *joint.stride_low)):
                named = [factor if factor.isdigit() else argument_text(site, factor) for factor in side]
                if any(text is None for text in named):
                    return None
                if any(f in site.bound and not is_pure(site.bound[f].value) for f in side):
                    return None
                sides.append(" * ".join(text for text in named if text is not None) or "1")
            parts.append(f"{sides[0]} == {sides[1]}")
        texts.append(" and ".join(dict.fromkeys(parts)))
    return texts


def _rewritten(subject: Subject, base: str, leaves: Mapping[cst.Name, Occurrence], guard: Sequence[str]) -> str | None:
    """Leaves renamed, the new names defined after the digits, the condition passed at the launches."""
    flow, view = subject.flow, subject.view
    used = sorted({o.digit for o in leaves.values()}, key=lambda digit: (len(digit.divisor), digit.name))
    flat = {digit.name: fresh_name(view, f"{digit.name}_flat") for digit in used}
    flag = fresh_name(view, f"FLAT_{base.upper()}")
    place = _last_definition(flow, [digit.name for digit in used])
    if place is None:
        return None
    lines = [f"{flat[used[0].name]} = {base}"]
    lines += [f"{flat[digit.name]} = {view.language}.zeros_like({base})" for digit in used[1:]]
    text = _lines(lines, flag, flat, is_guarded=any(guard))
    inserted = cst.FlattenSentinel([place, *statements(text)])
    changes: dict[cst.CSTNode, cst.CSTNode | cst.FlattenSentinel[cst.CSTNode]] = {
        leaf: leaf.with_changes(value=flat[leaf.value]) for leaf in leaves
    }
    if any(node in leaves for node in walk(place)):
        return None
    changes[place] = inserted
    source = replace_nodes(view.module, changes).code
    return with_argument(source, subject.name, flag, guard, constexpr=True) if any(guard) else source


def _lines(lines: Sequence[str], flag: str, flat: Mapping[str, str], *, is_guarded: bool) -> str:
    if not is_guarded:
        return "# One index: these coordinates follow one another in memory.\n" + "\n".join(lines) + "\n"
    body = "\n".join(f"    {line}" for line in lines)
    other = "\n".join(f"    {new} = {old}" for old, new in flat.items())
    return f"if {flag}:  # these coordinates follow one another in memory\n{body}\nelse:\n{other}\n"


def _last_definition(flow: Flow, names: Sequence[str]) -> cst.SimpleStatementLine | None:
    """The last of the statements that define the names; all must stand in one block."""
    found = [statement_of(flow.definitions[name][0].node, flow.parents) for name in names]
    lines = [line for line in found if line is not None]
    blocks = {id(flow.parents.get(line)) for line in lines}
    if len(lines) != len(names) or len(blocks) != 1:
        return None
    block = flow.parents[lines[0]]
    if not isinstance(block, cst.IndentedBlock):
        return None
    order = list(block.body)
    return max(lines, key=order.index)
