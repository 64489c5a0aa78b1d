"""Prepared values: what depends on parameters and buffers alone is computed once, and again when one of them changes.

The emitted file gets one function `prepare` that computes all of it, and the forward pass one line that asks for its
results; `prepared` compares identity, storage and version of each tensor, and the value of each number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.fold import NAME
from tilewright.graph.graph import Graph
from tilewright.graph.nodes import target_of
from tilewright.kernels.native import laid_out_text, native_text
from tilewright.kernels.region import is_relabelling
from tilewright.kernels.text import Lines, Names

aten = torch.ops.aten

PREPARED = '''
def prepared(module, *given):
    """prepare(*given), done again only when a tensor is another one or was changed in place, or a number changed."""
    try:
        state = [(id(g), g.data_ptr(), g._version) if isinstance(g, torch.Tensor) else g for g in given]
    except RuntimeError:  # inference tensors do not count their changes
        return prepare(*given)
    held = module.__dict__.get("_prepared")
    if held is None or held[0] != state:
        held = module.__dict__["_prepared"] = (state, given, prepare(*given))
    return held[2]
'''.strip("\n")

#: Operations as people write them.
_WRITTEN: dict[Any, str] = {
    aten.add.Tensor: "{0} + {1}",
    aten.sub.Tensor: "{0} - {1}",
    aten.mul.Tensor: "{0} * {1}",
    aten.div.Tensor: "{0} / {1}",
    aten.neg.default: "-{0}",
    aten.rsqrt.default: "torch.rsqrt({0})",
    aten.reciprocal.default: "torch.reciprocal({0})",
    aten.sign.default: "torch.sign({0})",
    aten.gt.Scalar: "{0} > {1}",
    aten.where.self: "torch.where({0}, {1}, {2})",
    aten.clamp_min.default: "{0}.clamp(min={1})",
    aten.clamp_max.default: "{0}.clamp(max={1})",
    aten.unflatten.int: "{0}.unflatten({1}, {2})",
    aten.flatten.using_ints: "{0}.flatten({1}, {2})",
    aten.sum.dim_IntList: "{0}.sum({1})",
    aten.amin.default: "{0}.amin({1})",
    aten.amax.default: "{0}.amax({1})",
}

_KEEPS_DIMS = (aten.sum.dim_IntList, aten.amin.default, aten.amax.default)


def is_prepared(node: torch_fx.Node, known: frozenset[torch_fx.Node] | set[torch_fx.Node], graph: Graph) -> bool:
    """True for an operation whose operands are parameters, buffers, constants or prepared values, and no chance."""
    sources = node.all_input_nodes
    if node.op != "call_function" or not sources or not isinstance(node.meta.get("val"), torch.Tensor | tuple | list):
        return False
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    return all(s in known if s.op == "call_function" else s.name not in graph.inputs for s in sources)


def prepared_nodes(graph: Graph) -> frozenset[torch_fx.Node]:
    """All operations on parameters alone that are worth a place of their own.

    Those that only relabel dims of a parameter, or of a prepared value that is used elsewhere too, are left to
    whoever reads them: a kernel does so for nothing.
    """
    alone: set[torch_fx.Node] = set()
    for node in graph.fx.nodes:
        if is_prepared(node, alone, graph):
            alone.add(node)
    result = set(alone)
    for node in reversed(list(graph.fx.nodes)):
        if node in alone and is_relabelling(node) and any(user not in result for user in node.users):
            result.discard(node)
    return frozenset(result)


class PreparedWriter:
    """Collects what the forward pass needs of prepared values, as text of one function.

    Args:
        graph: the graph.
        nodes: its prepared operations.
        paths: parameter or buffer node -> its expression in the forward pass.
        scalar: expression of a linked float in the forward pass; None for a float that is not linked.
        names: names of the forward pass.
        constant: text of a constant in prepare(), where the second argument names an expression of the forward pass.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: frozenset[torch_fx.Node],
        paths: Callable[[torch_fx.Node], str],
        scalar: Callable[[float], str | None],
        names: Names,
        constant: Callable[[torch_fx.Node, Callable[[str], str]], str],
    ) -> None:
        self.graph = graph
        self.nodes = nodes
        self._paths = paths
        self._scalar = scalar
        self._constant = constant
        self._names = names
        self._own = Names({"torch", "F", "prepare", "prepared"})
        self._given: dict[str, str] = {}  # expression in the forward pass -> name in prepare()
        self._text: dict[torch_fx.Node, str] = {}
        self._results: dict[tuple[str, torch_fx.Node], str] = {}  # (how it is made, of what) -> name
        self._returned: list[str] = []
        self._lines = Lines(1)

    def value(self, node: torch_fx.Node) -> str:
        """The name under which the forward pass has a prepared value, contiguous."""
        return self._result("{}.contiguous()", node, node.meta.get(NAME, node.name))

    def laid_out(self, node: torch_fx.Node, form: str) -> str:
        """The name of a parameter or a prepared value in a memory format of torch's, as text."""
        return self._result(laid_out_text("{}", form), node, f"{self._text_of(node)}_{form.split('.')[1]}")

    def packed(self, function: str, node: torch_fx.Node) -> str:
        """The name of `function(node)`, for a parameter or a prepared value."""
        return self._result(f"{function}({{}})", node, f"{function.removeprefix('pack_')}_packed")

    def _result(self, template: str, node: torch_fx.Node, wish: str) -> str:
        key = (template, node)
        if key not in self._results:
            text = self._text_of(node)
            name = self._names.unique(wish)
            own = self._own.unique(name)
            self._lines.add(f"{own} = {template.format(text)}")
            self._results[key] = name
            self._returned.append(own)
        return self._results[key]

    def _argument(self, expression: str) -> str:
        if expression not in self._given:
            self._given[expression] = self._own.unique(re.sub(r"^self\.(reference\.)?(_modules)?", "", expression))
        return self._given[expression]

    def _text_of(self, item: Any) -> str:
        if isinstance(item, torch_fx.Node):
            if item.op == "placeholder":
                if item.name in self.graph.constants:
                    return self._constant(item, self._argument)
                return self._argument(self._paths(item))
            if item not in self._text:
                self._emit(item)
            return self._text[item]
        if isinstance(item, list | tuple):
            return f"[{', '.join(self._text_of(part) for part in item)}]"
        if type(item) is float and (linked := self._scalar(item)) is not None:
            return self._argument(linked)
        if isinstance(item, float) and item in (float("inf"), float("-inf")):
            return f'float("{item}")'
        return str(item) if isinstance(item, torch.dtype | torch.memory_format | torch.layout) else repr(item)

    def _emit(self, node: torch_fx.Node) -> None:
        text = self._written(node)
        name = self._own.unique(node.meta.get(NAME, node.name))
        self._lines.add(f"{name} = {text}")
        self._text[node] = name

    def _written(self, node: torch_fx.Node) -> str:
        template, arguments = _WRITTEN.get(target_of(node)), list(node.args)
        if template is None or node.kwargs or template.count("{") > len(arguments):
            return native_text(node, self._text_of, {})
        texts = [self._text_of(argument) for argument in arguments]
        text = template.format(*texts)
        if target_of(node) in _KEEPS_DIMS and len(arguments) > 2 and arguments[2]:
            text = f"{text[:-1]}, True)"
        return text

    def call(self) -> str | None:
        """The forward pass's line; None where nothing is prepared."""
        if not self._results:
            return None
        names = ", ".join(self._results.values())
        return f"{names} = prepared({', '.join(['self', *self._given])})"

    def source(self) -> str:
        """`prepare` and `prepared`."""
        head = Lines()
        head.open(f"def prepare({', '.join(self._given.values())}):")
        head.add('"""What depends on parameters alone; computed again only when one of them changes."""')
        return f"{head}\n{self._lines}\n    return {', '.join(self._returned)}\n\n\n{PREPARED}"

    def scratch(self) -> tuple[str, ...]:
        """What is held, for the report."""
        if not self._results:
            return ()
        return (f"{', '.join(self._results.values())}: from parameters, once for each change of them",)
