"""A kernel's scalar index made a block: every value that depends on it gains a trailing axis.

Shapes are inferred as Triton broadcasts them: a shorter shape is filled with ones in front. So only a value without
the new axis that meets one with it must be told: `v` becomes `v[:, None]`. Loads and stores are masked to the indices
that exist. Where a statement is met whose meaning under the new axis is not known, the whole edit is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import libcst as cst

from tilewright.proposers.retune.flow import Flow
from tilewright.proposers.retune.lift_nodes import (
    alternatives,
    argument,
    axis_value,
    in_parentheses,
    only_returns,
    operand,
    slice_text,
    subscripted,
)
from tilewright.proposers.retune.trees import (
    dotted_name,
    expression,
    replace_inside,
    squeezed,
    statements,
    walk,
)

ELEMENTWISE = frozenset(
    {"abs", "cast", "ceil", "clamp", "cos", "div_rn", "erf", "exp", "exp2", "fdiv", "floor", "fma", "log", "log2"}
    | {"maximum", "minimum", "rsqrt", "sigmoid", "sin", "sqrt", "sqrt_rn", "umulhi", "where"}
)
REDUCTIONS = frozenset({"sum", "max", "min", "argmax", "argmin", "xor_sum"})
HINTS = frozenset({"multiple_of", "max_contiguous", "max_constancy"})
SCALARS = frozenset({"program_id", "num_programs", "cdiv", "constexpr"})


class LiftRefused(Exception):
    """The kernel holds something whose meaning under a new axis is not known."""


class _Promote(Exception):
    """A definition must have the new axis from the start; the kernel is lifted again."""

    def __init__(self, nodes: Sequence[cst.CSTNode]) -> None:
        self.nodes = tuple(nodes)
        super().__init__()


@dataclass(frozen=True)
class Kind:
    """A value's rank as written (None where it is not known), and whether it gains the new axis."""

    rank: int | None
    lifted: bool = False


_SCALAR = Kind(0)
_UNKNOWN = Kind(None)
_Value = tuple[cst.BaseExpression, Kind]


@dataclass
class Lift:
    """Lifts one kernel.

    Args:
        flow: the kernel.
        index: the name that holds the program's index, bound once to `tl.program_id(axis)`.
        count: the argument that says how many indices there are.
        block: name of the new block size.
        mask: name of the new mask.
    """

    flow: Flow
    index: str
    count: str
    block: str
    mask: str
    _kinds: dict[str, Kind] = field(default_factory=dict)
    _sources: dict[str, list[cst.CSTNode]] = field(default_factory=dict)
    _promoted: set[cst.CSTNode] = field(default_factory=set)

    def body(self) -> cst.IndentedBlock:
        """The kernel's new body.

        Raises:
            LiftRefused: something in it has no known meaning under the new axis.
        """
        body = self.flow.kernel.function.body
        if not isinstance(body, cst.IndentedBlock):
            raise LiftRefused("a body on one line")
        for _ in range(20):
            self._kinds = {parameter.name: _SCALAR for parameter in self.flow.kernel.parameters}
            self._sources = {}
            try:
                return body.with_changes(body=self._block(body.body))
            except _Promote as promote:
                if self._promoted >= set(promote.nodes):
                    raise LiftRefused("a value changes its shape in a loop") from None
                self._promoted.update(promote.nodes)
        raise LiftRefused("no fixed point")

    # -- statements ------------------------------------------------------------------------------------------

    def _block(self, body: Sequence[cst.BaseStatement]) -> list[cst.BaseStatement]:
        return [new for statement in body for new in self._statement(statement)]

    def _statement(self, node: cst.BaseStatement) -> list[cst.BaseStatement]:
        if isinstance(node, cst.SimpleStatementLine):
            if len(node.body) != 1:
                raise LiftRefused("several statements on a line")
            small, after = self._small(node.body[0])
            return [node.with_changes(body=[small]), *after]
        if isinstance(node, cst.If):
            return self._if(node)
        if isinstance(node, cst.For):
            return [self._for(node)]
        raise LiftRefused(type(node).__name__)

    def _small(self, node: cst.BaseSmallStatement) -> tuple[cst.BaseSmallStatement, list[cst.BaseStatement]]:
        if isinstance(node, cst.Assign):
            return self._assign(node)
        if isinstance(node, cst.AugAssign):
            return self._augmented(node), []
        if isinstance(node, cst.Expr):
            if isinstance(node.value, cst.Call) and self.flow.called(node.value) == "store":
                return node.with_changes(value=self._store(node.value)), []
            value, kind = self._expression(node.value)
            if kind.lifted:
                raise LiftRefused("a lifted value is dropped")
            return node.with_changes(value=value), []
        if isinstance(node, cst.Pass) or (isinstance(node, cst.Return) and node.value is None):
            return node, []
        raise LiftRefused(type(node).__name__)

    def _assign(self, node: cst.Assign) -> tuple[cst.BaseSmallStatement, list[cst.BaseStatement]]:
        target = node.targets[0].target
        if len(node.targets) != 1 or not isinstance(target, cst.Name):
            _, kind = self._expression(node.value)
            if kind.lifted:
                raise LiftRefused("several targets")
            for part in walk(target):
                if isinstance(part, cst.Name):
                    self._bind(part.value, _UNKNOWN, node)
            return node, []
        if target.value == self.index:
            return self._index_definition(node)
        if node in self._promoted:
            value, kind = self._with_axis(node.value)
        else:
            value, kind = self._expression(node.value)
        self._bind(target.value, kind, node)
        return node.with_changes(value=value), []

    def _bind(self, name: str, kind: Kind, node: cst.CSTNode) -> None:
        self._kinds[name] = kind
        self._sources[name] = [node]

    def _index_definition(self, node: cst.Assign) -> tuple[cst.BaseSmallStatement, list[cst.BaseStatement]]:
        """`p = tl.program_id(a)` -> `p = tl.program_id(a) * B + tl.arange(0, B)`, and the mask of what exists."""
        calls = [part for part in walk(node.value) if self.flow.is_call(part, "program_id")]
        if len(calls) != 1:
            raise LiftRefused("the index is not one program_id")
        language = self.flow.language
        text = f"program * {self.block} + {language}.arange(0, {self.block})"
        block = cst.ensure_type(expression(text), cst.BinaryOperation)
        left = cst.ensure_type(block.left, cst.BinaryOperation)
        new = block.with_changes(left=left.with_changes(left=calls[0]))
        if calls[0] is node.value:
            value: cst.BaseExpression = new
        else:
            inside = replace_inside(node.value, {calls[0]: in_parentheses(new)})
            if not isinstance(inside, cst.BaseExpression):
                raise LiftRefused("the index is no expression")
            value = inside
        self._bind(self.index, Kind(0, True), node)
        self._bind(self.mask, Kind(0, True), node)
        return node.with_changes(value=value), statements(f"{self.mask} = {self.index} < {self.count}\n")

    def _with_axis(self, value: cst.BaseExpression) -> _Value:
        """A starting value that has the new axis from the start."""
        language = self.flow.language
        if isinstance(value, cst.Float | cst.Integer) or (
            isinstance(value, cst.UnaryOperation) and isinstance(value.expression, cst.Float | cst.Integer)
        ):
            is_float = any(isinstance(part, cst.Float) for part in walk(value))
            dtype = "float32" if is_float else "int32"
            text = f"{language}.full(({self.block},), {squeezed(value)}, dtype={language}.{dtype})"
            return expression(text), Kind(0, True)
        if isinstance(value, cst.Call) and self.flow.called(value) in ("zeros", "full"):
            shape = value.args[0].value
            if isinstance(shape, cst.Tuple | cst.List):
                rank = len(shape.elements)
                comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
                old = [element.with_changes(comma=comma) for element in shape.elements]
                grown = shape.with_changes(elements=[*old, cst.Element(cst.Name(self.block))])
                args = [value.args[0].with_changes(value=grown), *value.args[1:]]
                return value.with_changes(args=args), Kind(rank, True)
        raise LiftRefused("a starting value cannot be given the new axis")

    def _augmented(self, node: cst.AugAssign) -> cst.BaseSmallStatement:
        if not isinstance(node.target, cst.Name):
            raise LiftRefused("an augmented target")
        name = node.target.value
        old = self._kinds.get(name, _UNKNOWN)
        value, kind = self._expression(node.value)
        joined = _joined([old, kind])
        if joined.lifted and not kind.lifted:
            value = self._grown(value, kind)
        if kind.lifted and not old.lifted and (old.rank is None or old.rank > 0):
            self._promote(name)
        self._kinds[name] = joined
        return node.with_changes(value=value)

    def _promote(self, name: str) -> None:
        nodes = self._sources.get(name, [])
        if not nodes or not all(isinstance(node, cst.Assign) for node in nodes):
            raise LiftRefused(f"{name} must have the new axis from the start")
        raise _Promote(nodes)

    def _if(self, node: cst.If) -> list[cst.BaseStatement]:
        test, kind = self._test(node)
        if test is None:
            return []
        if kind.lifted:
            raise LiftRefused("a branch on a lifted value")
        before = dict(self._kinds)
        body = self._branch(node.body)
        taken, self._kinds = self._kinds, dict(before)
        orelse = node.orelse
        if isinstance(orelse, cst.Else):
            orelse = orelse.with_changes(body=self._branch(orelse.body))
        elif isinstance(orelse, cst.If):
            (orelse,) = (part for part in self._if(orelse) if isinstance(part, cst.If))
        for name in taken.keys() & self._kinds.keys():
            if taken[name].lifted != self._kinds[name].lifted:
                raise LiftRefused(f"{name} differs between branches")
        self._kinds = {**taken, **self._kinds}
        return [node.with_changes(test=test, body=body, orelse=orelse)]

    def _branch(self, body: cst.BaseSuite) -> cst.IndentedBlock:
        if not isinstance(body, cst.IndentedBlock):
            raise LiftRefused("a suite on one line")
        return body.with_changes(body=self._block(body.body))

    def _test(self, node: cst.If) -> tuple[cst.BaseExpression | None, Kind]:
        """The condition; of a guard `if p >= count or ...: return` the part that the mask now does is dropped."""
        if node.orelse is None and only_returns(node.body):
            parts = alternatives(node.test)
            kept = [part for part in parts if not self._is_bound(part)]
            if len(kept) < len(parts):
                if not kept:
                    return None, _SCALAR
                joined = kept[0]
                for part in kept[1:]:
                    joined = cst.BooleanOperation(joined, cst.Or(), part)
                return self._expression(joined)
        return self._expression(node.test)

    def _is_bound(self, part: cst.BaseExpression) -> bool:
        return squeezed(part) == f"{self.index}>={self.count}"

    def _for(self, node: cst.For) -> cst.For:
        if not isinstance(node.target, cst.Name) or node.orelse is not None or not isinstance(node.iter, cst.Call):
            raise LiftRefused("a loop of another form")
        _, kind = self._expression(node.iter)
        if kind.lifted or any(self._expression(arg.value)[1].lifted for arg in node.iter.args):
            raise LiftRefused("a loop over lifted bounds")
        before = dict(self._kinds)
        sources = {name: list(nodes) for name, nodes in self._sources.items()}
        self._kinds[node.target.value] = _SCALAR
        body = self._branch(node.body)
        for name, old in before.items():
            if self._kinds[name].lifted and not old.lifted:
                self._sources = sources
                self._promote(name)
        return node.with_changes(body=body)

    # -- expressions -------------------------------------------------------------------------------------------

    def _expression(self, node: cst.BaseExpression) -> _Value:
        if isinstance(node, cst.Name):
            return node, self._kinds.get(node.value, _UNKNOWN)
        if isinstance(node, cst.Integer | cst.Float | cst.BaseString):
            return node, _SCALAR
        if isinstance(node, cst.Attribute):
            return node, _SCALAR
        if isinstance(node, cst.BinaryOperation):
            (left, right), kind = self._aligned([node.left, node.right])
            return node.with_changes(left=left, right=right), kind
        if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
            target = node.comparisons[0]
            (left, right), kind = self._aligned([node.left, target.comparator])
            return node.with_changes(left=left, comparisons=[target.with_changes(comparator=right)]), kind
        if isinstance(node, cst.UnaryOperation) and not isinstance(node.operator, cst.Not):
            value, kind = self._expression(node.expression)
            return node.with_changes(expression=value), kind
        if isinstance(node, cst.Subscript):
            return self._subscript(node)
        if isinstance(node, cst.Call):
            return self._call(node)
        return self._untouched(node)

    def _untouched(self, node: cst.BaseExpression) -> _Value:
        """Anything else may stand as long as nothing lifted is in it."""
        for part in walk(node):
            if isinstance(part, cst.Name) and self._kinds.get(part.value, _UNKNOWN).lifted:
                raise LiftRefused(type(node).__name__)
        return node, _UNKNOWN

    def _aligned(self, nodes: Sequence[cst.BaseExpression]) -> tuple[list[cst.BaseExpression], Kind]:
        """Operands that broadcast together."""
        values = [self._expression(node) for node in nodes]
        kind = _joined([kind for _, kind in values])
        if not kind.lifted:
            return [value for value, _ in values], kind
        return [value if kind.lifted else self._grown(value, kind) for value, kind in values], kind

    def _grown(self, value: cst.BaseExpression, kind: Kind) -> cst.BaseExpression:
        """A value without the new axis, ready to meet one that has it: `v` -> `v[:, None]`."""
        if kind.rank is None:
            raise LiftRefused("a value of unknown shape meets a lifted one")
        return value if kind.rank == 0 else subscripted(value, [":"] * kind.rank + ["None"])

    def _subscript(self, node: cst.Subscript) -> _Value:
        value, kind = self._expression(node.value)
        parts = [slice_text(element) for element in node.slice]
        if any(part is None for part in parts):
            return self._untouched(node)
        rank = len(parts)
        if not kind.lifted:
            return node.with_changes(value=value), Kind(rank) if kind.rank == parts.count(":") else _UNKNOWN
        if kind.rank != parts.count(":"):
            raise LiftRefused("a subscript that does not name every axis")
        return subscripted(value, [*(part for part in parts if part is not None), ":"]), Kind(rank, True)

    def _call(self, node: cst.Call) -> _Value:
        name = self.flow.called(node)
        if name == "load":
            return self._load(node)
        if name in REDUCTIONS:
            return self._reduction(node)
        if name in HINTS:
            value, kind = self._expression(node.args[0].value)
            return (value, kind) if kind.lifted else (node, kind)
        if name in ("zeros_like", "full_like"):
            value, kind = self._expression(node.args[0].value)
            return node.with_changes(args=[node.args[0].with_changes(value=value), *node.args[1:]]), kind
        if name == "arange":
            return node, Kind(1)
        if name in ("zeros", "full"):
            shape = node.args[0].value
            found, _ = self._untouched(node)
            return found, Kind(len(shape.elements)) if isinstance(shape, cst.Tuple | cst.List) else _UNKNOWN
        if name in SCALARS or dotted_name(node.func) in ("float", "int", "bool"):
            return self._untouched(node)[0], _SCALAR
        if self._is_elementwise(node, name):
            values, kind = self._aligned([arg.value for arg in node.args])
            args = [arg.with_changes(value=value) for arg, value in zip(node.args, values, strict=True)]
            return node.with_changes(args=args), kind
        if isinstance(node.func, cst.Attribute) and node.func.attr.value == "to" and not name:
            value, kind = self._expression(node.func.value)
            return node.with_changes(func=node.func.with_changes(value=operand(value))), kind
        return self._untouched(node)

    def _is_elementwise(self, node: cst.Call, name: str) -> bool:
        dotted = dotted_name(node.func)
        plain = name.removeprefix("math.")
        return plain in ELEMENTWISE or dotted.startswith(("libdevice.", "tl_math.")) or name.startswith("extra.")

    def _reduction(self, node: cst.Call) -> _Value:
        value, kind = self._expression(node.args[0].value)
        axis_arg = next((a for a in node.args if a.keyword is not None and a.keyword.value == "axis"), None)
        if axis_arg is None and len(node.args) > 1 and node.args[1].keyword is None:
            axis_arg = node.args[1]
        others = [arg for arg in node.args[1:] if arg is not axis_arg]
        if not kind.lifted:
            rank = None if kind.rank is None or others else (kind.rank - 1 if axis_arg is not None else 0)
            return node, Kind(rank)
        axis = axis_value(axis_arg, kind.rank)
        if axis is None or kind.rank is None or others:
            raise LiftRefused("a reduction whose axis is not known")
        first = node.args[0].with_changes(value=value)
        number = cst.Integer(str(axis))
        if axis_arg is not None:
            return node.with_changes(args=[first, axis_arg.with_changes(value=number)]), Kind(kind.rank - 1, True)
        call = cst.ensure_type(expression(f"f(x, axis={axis})"), cst.Call)
        args = [first.with_changes(comma=call.args[0].comma), call.args[1]]
        return node.with_changes(args=args), Kind(kind.rank - 1, True)

    # -- memory --------------------------------------------------------------------------------------------------

    def _load(self, node: cst.Call) -> _Value:
        pointer, kind = self._expression(node.args[0].value)
        if not kind.lifted:
            for arg in node.args[1:]:
                if self._expression(arg.value)[1].lifted:
                    raise LiftRefused("a lifted mask on an address that is not")
            return node, kind
        other = argument(node, "other", 2)
        args = [node.args[0].with_changes(value=pointer)]
        for arg in node.args[1:]:
            args.append(self._fitted(arg, kind) if arg is other else arg)
        return self._masked(node, args, kind, 1), kind

    def _store(self, node: cst.Call) -> cst.Call:
        pointer, kind = self._expression(node.args[0].value)
        if not kind.lifted:
            raise LiftRefused("a store whose address does not depend on the index")
        value = argument(node, "value", 1)
        if value is None:
            raise LiftRefused("a store of nothing")
        args = [node.args[0].with_changes(value=pointer)]
        for arg in node.args[1:]:
            args.append(self._fitted(arg, kind) if arg is value else arg)
        return self._masked(node, args, kind, 2)

    def _fitted(self, arg: cst.Arg, pointer: Kind) -> cst.Arg:
        """A stored or substituted value, in the address's rank."""
        value, kind = self._expression(arg.value)
        if kind.rank is None or pointer.rank is None:
            raise LiftRefused("a stored value of unknown shape")
        if not kind.lifted:
            return arg.with_changes(value=self._grown(value, kind))
        if kind.rank < pointer.rank:
            value = subscripted(value, ["None"] * (pointer.rank - kind.rank) + [":"] * (kind.rank + 1))
        return arg.with_changes(value=value)

    def _masked(self, node: cst.Call, args: Sequence[cst.Arg], pointer: Kind, position: int) -> cst.Call:
        """The access with its mask narrowed to the indices that exist."""
        if pointer.rank is None:
            raise LiftRefused("an address of unknown shape")
        given = argument(node, "mask", position)
        own: cst.BaseExpression = cst.Name(self.mask)
        if given is None:
            if pointer.rank:
                own = subscripted(own, ["None"] * pointer.rank + [":"])
            call = cst.ensure_type(expression("f(x, mask=m)"), cst.Call)
            last = args[-1].with_changes(comma=call.args[0].comma)
            added = call.args[1].with_changes(value=own, comma=args[-1].comma)
            return node.with_changes(args=[*args[:-1], last, added])
        mask, kind = self._expression(given.value)
        if kind.rank is None:
            raise LiftRefused("a mask of unknown shape")
        if kind.rank < pointer.rank:
            own = subscripted(own, ["None"] * pointer.rank + [":"])
        left = mask if kind.lifted else self._grown(mask, kind)
        both = cst.BinaryOperation(operand(left), cst.BitAnd(), own)
        new = [arg.with_changes(value=both) if arg is given else arg for arg in args]
        return node.with_changes(args=new)


# -- small helpers ------------------------------------------------------------------------------------------------


def _joined(kinds: Sequence[Kind]) -> Kind:
    lifted = any(kind.lifted for kind in kinds)
    ranks = [kind.rank for kind in kinds]
    known = [rank for rank in ranks if rank is not None]
    if len(known) < len(ranks):
        if lifted:
            raise LiftRefused("a value of unknown shape meets a lifted one")
        return _UNKNOWN
    return Kind(max(known), lifted)
