"""Constants that a forward pass writes down (`torch.tensor(0.0, device=x.device)`), folded into numbers.

A tensor of one element that depends on such constants alone is a number of its value and type, and so is one that is
filled with a number (`zeros_like(x)`): what reads it becomes the form of the operation that takes numbers, where the
result keeps its shape. Other constants stay tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.fx as torch_fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import target_of
from tilewright.graph.rewrite import Editor, copy_graph, tree_leaves

aten = torch.ops.aten

Number = int | float | bool

#: Constants of more elements are not computed with.
_MOST_ELEMENTS = 64


def fold_constants(graph: Graph) -> Graph:
    """A copy of the graph in which numbers stand where such constants were read."""
    result = copy_graph(graph)
    known: dict[torch_fx.Node, torch.Tensor] = {}
    numbers: dict[torch_fx.Node, Number] = {}
    for node in list(result.fx.nodes):
        value = _written_down(node, result) if node.op == "placeholder" else _computed(node, known, result)
        if value is not None:
            known[node] = value
            if value.numel() == 1 and not value.is_complex():
                numbers[node] = value.item()
        elif (number := _fill(node)) is not None:
            numbers[node] = number
        elif node.op == "call_function":
            _read_numbers(node, numbers, result)
    result.fx.eliminate_dead_code()
    return result


#: Operations that fill a new tensor with a number -> the number, or its place among the arguments.
_FILLED_WITH: dict[Any, int] = {
    aten.zeros.default: 0,
    aten.zeros_like.default: 0,
    aten.new_zeros.default: 0,
    aten.ones.default: 1,
    aten.ones_like.default: 1,
    aten.new_ones.default: 1,
}
_FILLED_FROM: dict[Any, int] = {
    aten.full.default: 1,
    aten.full_like.default: 1,
    aten.new_full.default: 2,
    aten.scalar_tensor.default: 0,
}


def _fill(node: torch_fx.Node) -> Number | None:
    """The number that a new tensor is filled with, in its type; None for anything else."""
    target, value = target_of(node), node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor) or value.is_complex():
        return None
    number = node.args[_FILLED_FROM[target]] if target in _FILLED_FROM else _FILLED_WITH.get(target)
    if type(number) not in (int, float, bool):
        return None
    kind = float if value.is_floating_point() else bool if value.dtype is torch.bool else int
    return kind(number)  # type: ignore[arg-type]


def _written_down(node: torch_fx.Node, graph: Graph) -> torch.Tensor | None:
    """The value of a constant that forward itself makes; None for anything else.

    A tensor that is an attribute of the module may change.
    """
    value = graph.constants.get(node.name)
    if value is None or not is_written_down(node.name, graph) or value.is_meta or isinstance(value, FakeTensor):
        return None
    return value if value.numel() <= _MOST_ELEMENTS else None


def is_written_down(name: str, graph: Graph) -> bool:
    """Whether a constant is made by forward itself, and is no tensor that the module holds."""
    return graph.constant_names.get(name, "lifted_tensor").rpartition(".")[2].startswith("lifted_tensor")


def _computed(node: torch_fx.Node, known: Mapping[torch_fx.Node, torch.Tensor], graph: Graph) -> torch.Tensor | None:
    """The value of an operation on known constants alone, where it is small."""
    fake = node.meta.get("val")
    if (
        node.op != "call_function"
        or not isinstance(fake, torch.Tensor)
        or any(not isinstance(size, int) for size in fake.shape)
    ):
        return None
    leaves = tree_leaves((node.args, dict(node.kwargs)))
    sources = [leaf for leaf in leaves if isinstance(leaf, torch_fx.Node)]
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    linked = any(type(leaf) is float and leaf in graph.linked for leaf in leaves)
    if random or linked or not sources or fake.numel() > _MOST_ELEMENTS or any(s not in known for s in sources):
        return None

    def value_of(item: Any) -> Any:
        if isinstance(item, torch_fx.Node):
            return known[item]
        return torch.device("cpu") if isinstance(item, torch.device) else item

    args, kwargs = tree_map(value_of, (tuple(node.args), dict(node.kwargs)))
    value = node.target(*args, **kwargs)  # type: ignore[operator]
    return value if isinstance(value, torch.Tensor) and value.dtype is fake.dtype else None


# -- operations that take numbers --------------------------------------------------------------------------


def _read_numbers(node: torch_fx.Node, numbers: Mapping[torch_fx.Node, Number], graph: Graph) -> None:
    rule = _WITH_NUMBERS.get(target_of(node))
    value = node.meta.get("val")
    if rule is None or not isinstance(value, torch.Tensor):
        return
    given = [_number(item, node, numbers, graph) for item in node.args]
    if not any(_is_node(item) for item in given) or all(map(_is_same, node.args, given)):
        return
    new = rule(Editor(graph.fx, node), node, given)
    if new is None:
        return
    result = new.meta["val"]
    if result.dtype is not value.dtype or list(map(str, result.shape)) != list(map(str, value.shape)):
        graph.fx.erase_node(new)
        return
    node.replace_all_uses_with(new)
    graph.fx.erase_node(node)


def _is_same(old: Any, new: Any) -> bool:
    return type(old) is type(new)


def _number(item: Any, node: torch_fx.Node, numbers: Mapping[torch_fx.Node, Number], graph: Graph) -> Any:
    """A known number in the place of its tensor, rounded as torch rounds it before it computes."""
    if not isinstance(item, torch_fx.Node) or item not in numbers:
        return item
    number = numbers[item]
    others = [other.meta["val"] for other in node.all_input_nodes if other is not item]
    floats = [other.dtype for other in others if isinstance(other, torch.Tensor) and other.is_floating_point()]
    if type(number) is not float or number in graph.linked or not floats:
        return number
    wide = max((item.meta["val"].dtype, floats[0]), key=lambda dtype: torch.finfo(dtype).bits)
    return torch.tensor(number, dtype=floats[0] if item.meta["val"].dim() == 0 else wide).item()


Given = list[Any]
Form = Callable[[Editor, torch_fx.Node, Given], torch_fx.Node | None]


def _is_node(item: Any) -> bool:
    return isinstance(item, torch_fx.Node)


def _same_operation(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
    """The schema says tensor, but a number in the second place is what torch itself writes."""
    return editor.call(node.target, *given, **node.kwargs) if _is_node(given[0]) else None


def _commuted(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
    first, second = given[:2]
    if not _is_node(first):
        if node.kwargs or not _is_node(second):
            return None
        first, second = second, first
    return editor.call(node.target, first, second, **node.kwargs)


def _difference(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
    if _is_node(given[0]):
        return editor.call(aten.sub.Tensor, *given, **node.kwargs)
    return None if node.kwargs else editor.call(aten.rsub.Scalar, given[1], given[0])


def _bounded(lower: bool) -> Form:
    """minimum(x, c) -> clamp(x, max=c): both keep NaN."""

    def form(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
        x, bound = given if _is_node(given[0]) else given[::-1]
        return editor.call(aten.clamp.default, x, *((bound,) if lower else (None, bound)))

    return form


def _clamped(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
    bounds = given[1:]
    if not _is_node(given[0]) or any(_is_node(bound) for bound in bounds) or node.kwargs:
        return None
    if node.target is aten.clamp_max.Tensor:
        bounds = [None, *bounds]
    return editor.call(aten.clamp.default, given[0], *bounds)


def _chosen(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
    condition, yes, no = given
    if not _is_node(condition):
        return None
    forms = {(True, False): aten.where.ScalarOther, (False, True): aten.where.ScalarSelf}
    target = forms.get((_is_node(yes), _is_node(no)), aten.where.Scalar)
    return editor.call(target, condition, yes, no)


def _compared(straight: Any, turned: Any) -> Form:
    def form(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
        if _is_node(given[0]):
            return editor.call(straight, *given)
        return editor.call(turned, given[1], given[0])

    return form


def _to_power(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
    return editor.call(aten.pow.Tensor_Scalar if _is_node(given[0]) else aten.pow.Scalar, *given)


def _filled(editor: Editor, node: torch_fx.Node, given: Given) -> torch_fx.Node | None:
    return editor.call(aten.masked_fill.Scalar, *given) if _is_node(given[0]) and _is_node(given[1]) else None


_WITH_NUMBERS: dict[Any, Form] = {
    aten.add.Tensor: _commuted,
    aten.mul.Tensor: _commuted,
    aten.multiply.Tensor: _commuted,
    aten.sub.Tensor: _difference,
    aten.div.Tensor: _same_operation,
    aten.div.Tensor_mode: _same_operation,
    aten.min.other: _bounded(lower=False),
    aten.max.other: _bounded(lower=True),
    aten.minimum.default: _bounded(lower=False),
    aten.maximum.default: _bounded(lower=True),
    aten.clamp.Tensor: _clamped,
    aten.clamp_min.Tensor: _clamped,
    aten.clamp_max.Tensor: _clamped,
    aten.where.self: _chosen,
    aten.masked_fill.Tensor: _filled,
    aten.pow.Tensor_Tensor: _to_power,
    aten.eq.Tensor: _compared(aten.eq.Scalar, aten.eq.Scalar),
    aten.ne.Tensor: _compared(aten.ne.Scalar, aten.ne.Scalar),
    aten.lt.Tensor: _compared(aten.lt.Scalar, aten.gt.Scalar),
    aten.gt.Tensor: _compared(aten.gt.Scalar, aten.lt.Scalar),
    aten.le.Tensor: _compared(aten.le.Scalar, aten.ge.Scalar),
    aten.ge.Tensor: _compared(aten.ge.Scalar, aten.le.Scalar),
}
