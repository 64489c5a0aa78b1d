"""Value ranges: what a value can be, whatever the input, and rules that follow from it.

A range holds for every element that is not NaN; NaN passes through every operation here as it does in torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import argument, source_of, target_of
from tilewright.graph.rewrite import Editor, Rule

aten = torch.ops.aten
_INF = math.inf

#: Operations are followed so far back.
_MAX_DEPTH = 32


@dataclass(frozen=True)
class Range:
    """A closed interval; its ends may be infinite."""

    low: float = -_INF
    high: float = _INF

    def within(self, low: float, high: float) -> bool:
        """No value lies outside of [low, high]."""
        return low <= self.low and self.high <= high


ANYTHING = Range()

#: Key in the meta of an operation that has a cheaper form for some ranges: the range of its input.
RANGE = "range_of_input"

#: Such operations.
_RANGED = frozenset({aten.gelu.default})


def note_ranges(graph: Graph) -> None:
    """Leave with each operation that has a cheaper form what its input can be."""
    for node in graph.fx.nodes:
        if node.op == "call_function" and node.target in _RANGED:
            node.meta[RANGE] = value_range(source_of(node), graph)


_FIXED: dict[Any, Range] = {
    aten.relu.default: Range(0.0),
    aten.relu6.default: Range(0.0, 6.0),
    aten.sigmoid.default: Range(0.0, 1.0),
    aten.hardsigmoid.default: Range(0.0, 1.0),
    aten.tanh.default: Range(-1.0, 1.0),
    aten.erf.default: Range(-1.0, 1.0),
    aten.sin.default: Range(-1.0, 1.0),
    aten.cos.default: Range(-1.0, 1.0),
    aten.exp.default: Range(0.0),
    aten.exp2.default: Range(0.0),
    aten.expm1.default: Range(-1.0),
    aten.abs.default: Range(0.0),
    aten.square.default: Range(0.0),
    aten.sqrt.default: Range(0.0),
    aten.softplus.default: Range(0.0),
    aten.log_sigmoid.default: Range(-_INF, 0.0),
    aten.softmax.int: Range(0.0, 1.0),
    aten.gelu.default: Range(-0.18),
    aten.silu.default: Range(-0.28),
    aten.mish.default: Range(-0.31),
    aten.hardswish.default: Range(-0.376),
}

#: Operations whose results are among their input's values, or between them.
_WITHIN_INPUT = frozenset(
    {
        aten.amax.default,
        aten.amin.default,
        aten.view.default,
        aten.reshape.default,
        aten.permute.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.expand.default,
        aten.flatten.using_ints,
        aten.slice.Tensor,
    }
)

#: Activations that are their input where it is not negative.
_IDENTITY_ABOVE_ZERO = frozenset(
    {aten.relu.default, aten.leaky_relu.default, aten.elu.default, aten.celu.default, aten.abs.default}
)

_CLAMPS = frozenset(
    {
        aten.relu.default,
        aten.relu6.default,
        aten.hardtanh.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.clamp_max.default,
    }
)


def value_range(node: Any, graph: Graph, depth: int = 0) -> Range:
    """The range of a node's value; a number's range is itself.

    A float that is an attribute of the module may change: it may be anything.
    """
    if isinstance(node, int | float) and not isinstance(node, bool):
        return ANYTHING if _is_linked(node, graph) else Range(float(node), float(node))
    if not isinstance(node, torch_fx.Node) or node.op != "call_function" or depth > _MAX_DEPTH:
        return ANYTHING
    if node.target in _FIXED:
        return _known(node, graph, depth)
    if node.target in _WITHIN_INPUT:
        return value_range(source_of(node), graph, depth + 1)
    rule = _COMPUTED.get(target_of(node))
    if rule is None or node.kwargs:
        return ANYTHING
    return rule(node, lambda value: value_range(value, graph, depth + 1), graph)


def _is_linked(value: Any, graph: Graph) -> bool:
    return type(value) is float and value in graph.linked


def _known(node: torch_fx.Node, graph: Graph, depth: int) -> Range:
    fixed = _FIXED[node.target]
    if node.target is aten.softplus.default and (
        len(node.args) > 1 and (_is_linked(node.args[1], graph) or node.args[1] <= 0)  # type: ignore[operator]
    ):
        return ANYTHING
    if node.target in (aten.relu.default, aten.relu6.default):
        inner = value_range(source_of(node), graph, depth + 1)
        return Range(max(fixed.low, min(inner.low, fixed.high)), min(fixed.high, max(inner.high, fixed.low)))
    if node.target in (aten.gelu.default, aten.silu.default, aten.mish.default):
        inner = value_range(source_of(node), graph, depth + 1)
        return Range(0.0 if inner.low >= 0.0 else fixed.low, 0.0 if inner.high <= 0.0 else _INF)
    return fixed


Ask = Callable[[Any], Range]


def clamp_bounds(node: torch_fx.Node, graph: Graph) -> tuple[float, float] | None:
    """Lower and upper bound of a clamp by numbers; None for any other, and for bounds that may change."""
    low: Any
    high: Any
    if target_of(node) not in _CLAMPS or node.kwargs:
        return None
    if target_of(node) is aten.relu.default:
        return 0.0, _INF
    if target_of(node) is aten.relu6.default:
        return 0.0, 6.0
    if target_of(node) is aten.hardtanh.default:
        low, high = argument(node, 1, -1.0), argument(node, 2, 1.0)
    elif target_of(node) is aten.clamp_max.default:
        low, high = None, argument(node, 1)
    else:
        low, high = argument(node, 1), argument(node, 2)
    numbers = (-_INF if low is None else low, _INF if high is None else high)
    if any(isinstance(n, torch_fx.Node) or _is_linked(n, graph) or n != n for n in numbers):
        return None
    return float(numbers[0]), float(numbers[1])


def _clamped(node: torch_fx.Node, ask: Ask, graph: Graph) -> Range:
    bounds, inner = clamp_bounds(node, graph), ask(node.args[0])
    if bounds is None or bounds[0] > bounds[1]:
        return ANYTHING
    low, high = bounds
    return Range(min(max(inner.low, low), high), min(max(inner.high, low), high))


def _extremum(node: torch_fx.Node, ask: Ask, graph: Graph) -> Range:
    a, b = ask(node.args[0]), ask(node.args[1])
    pick = min if node.target is aten.minimum.default else max
    return Range(pick(a.low, b.low), pick(a.high, b.high))


def _added(node: torch_fx.Node, ask: Ask, graph: Graph) -> Range:
    a, b = ask(node.args[0]), ask(node.args[1])
    if node.target is aten.sub.Tensor:
        b = Range(-b.high, -b.low)
    low, high = a.low + b.low, a.high + b.high
    return Range(-_INF if low != low else low, _INF if high != high else high)


def _multiplied(node: torch_fx.Node, ask: Ask, graph: Graph) -> Range:
    a, b = ask(node.args[0]), ask(node.args[1])
    if node.args[0] is node.args[1]:
        return Range(0.0)
    ends = [x * y if x and y else 0.0 for x in (a.low, a.high) for y in (b.low, b.high)]
    return Range(min(ends), max(ends))


def _power(node: torch_fx.Node, ask: Ask, graph: Graph) -> Range:
    return Range(0.0) if node.args[1] in (2, 4, 6) else ANYTHING


def _negated(node: torch_fx.Node, ask: Ask, graph: Graph) -> Range:
    inner = ask(node.args[0])
    return Range(-inner.high, -inner.low)


def _summed(node: torch_fx.Node, ask: Ask, graph: Graph) -> Range:
    inner = ask(node.args[0])
    return Range(0.0 if inner.low >= 0.0 else -_INF, 0.0 if inner.high <= 0.0 else _INF)


def _averaged(node: torch_fx.Node, ask: Ask, graph: Graph) -> Range:
    """The sign only: rounding may carry a mean past its largest element."""
    return _summed(node, ask, graph)


_COMPUTED: dict[Any, Callable[[torch_fx.Node, Ask, Graph], Range]] = {
    aten.clamp.default: _clamped,
    aten.clamp_min.default: _clamped,
    aten.clamp_max.default: _clamped,
    aten.hardtanh.default: _clamped,
    aten.minimum.default: _extremum,
    aten.maximum.default: _extremum,
    aten.add.Tensor: _added,
    aten.sub.Tensor: _added,
    aten.mul.Tensor: _multiplied,
    aten.pow.Tensor_Scalar: _power,
    aten.neg.default: _negated,
    aten.sum.dim_IntList: _summed,
    aten.mean.dim: _averaged,
}


# -- rules -------------------------------------------------------------------------------------------------


def _same_kind(node: torch_fx.Node) -> bool:
    return bool(node.meta["val"].dtype == source_of(node).meta["val"].dtype)


def _needless_clamp(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    bounds = clamp_bounds(node, graph)
    source = source_of(node)
    if bounds is None or not _same_kind(node) or bounds == (-_INF, _INF):
        return None
    return source if value_range(source, graph).within(*bounds) else None


def _positive_input(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    known = node.target in _IDENTITY_ABOVE_ZERO and _same_kind(node) and value_range(source, graph).low >= 0.0
    plain = node.target is not aten.elu.default or (argument(node, 2, 1) == 1)
    return source if known and plain else None


def _negative_absolute(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    return editor.call(aten.neg.default, source) if value_range(source, graph).high <= 0.0 else None


def _clamp_of_clamp(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    outer = clamp_bounds(node, graph)
    inner = clamp_bounds(source, graph) if source.op == "call_function" else None
    if outer is None or inner is None or len(source.users) != 1 or outer[0] > outer[1] or inner[0] > inner[1]:
        return None
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    ends = [None if math.isinf(bound) and bound == way else bound for bound, way in ((low, -_INF), (high, _INF))]
    if ends == [None, None]:
        return source_of(source)
    return editor.call(aten.clamp.default, source_of(source), *ends)


RANGE_RULES: tuple[Rule, ...] = (
    Rule("needless clamp", "clamp(x, a, b) -> x, where a <= x <= b", tuple(_CLAMPS), _needless_clamp),
    Rule(
        "clamp of a clamp",
        "clamp(clamp(x, a, b), c, d) -> clamp(x, clamp(a, c, d), clamp(b, c, d))",
        tuple(_CLAMPS),
        _clamp_of_clamp,
    ),
    Rule(
        "positive input",
        "relu(x), leaky_relu(x), elu(x), |x| -> x, where x >= 0",
        tuple(_IDENTITY_ABOVE_ZERO),
        _positive_input,
    ),
    Rule("absolute of a negative", "|x| -> -x, where x <= 0", (aten.abs.default,), _negative_absolute),
)
