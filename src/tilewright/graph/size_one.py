"""Sizes of 1: torch.export takes 1 for a number of its own, so a symbolic capture says nothing of it.

A module may squeeze a dim of size 1 away, refuse it, or take another branch. The reference is run on fake tensors of
size 1, beside a run at the example's sizes: where it does other things, the captured graph does not hold for 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
import torch.fx as torch_fx
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tilewright.graph.graph import Graph, size_hint
from tilewright.graph.guards import symbol_hint

aten = torch.ops.aten

#: How a value lies in memory may depend on sizes of 1; what it holds does not.
_LAYOUT = frozenset(
    (
        "clone",
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "expand",
        "alias",
        "contiguous",
        "as_strided",
        "copy_",
    )
)

#: Forms of one product.
_PRODUCTS = frozenset(("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "mv", "addmv", "dot"))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names the operations of a run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name not in _LAYOUT:
            self.names.append("product" if name in _PRODUCTS else name)
        return func(*args, **(kwargs or {}))


def size_one_guards(module: nn.Module, inputs: Sequence[Any], graph: Graph) -> tuple[str, ...]:
    """Conditions, as those of `Graph.guards`, that exclude sizes of 1 where the captured graph does not hold for them.

    Args:
        module: the reference, in eval mode.
        inputs: the example that it was captured with.
        graph: what was captured.
    """
    bounded = {guard.partition(" >= ")[0] for guard in graph.guards}
    places = {symbol: text for symbol, text in _symbols(graph).items() if text not in bounded}
    if not places:
        return ()
    usual = _run(module, inputs, graph, {})
    if usual is None:
        return tuple(f"{text} != 1" for text in places.values())
    if _holds(module, inputs, graph, list(places), usual):
        return ()
    fine: list[sympy.Symbol] = []  # may all be 1 at once
    for symbol in places:
        if _holds(module, inputs, graph, [*fine, symbol], usual):
            fine.append(symbol)
    return tuple(f"{text} != 1" for symbol, text in places.items() if symbol not in fine)


def _symbols(graph: Graph) -> dict[sympy.Symbol, str]:
    """Each size that may vary, and where it stands alone."""
    found: dict[sympy.Symbol, str] = {}
    for node in _tensors(graph):
        for dim, size in enumerate(node.meta["val"].shape):
            expression = _expression(size)
            if isinstance(expression, sympy.Symbol):
                found.setdefault(expression, f"{{{node.name}}}.shape[{dim}]")
    return found


def _tensors(graph: Graph) -> list[torch_fx.Node]:
    return [graph.node(one.placeholder) for one in graph.arguments if one.placeholder is not None]


def _expression(size: Any) -> Any:
    return size.node.shape_env.replace(size.node.expr) if isinstance(size, torch.SymInt) else sympy.Integer(size)


def _value(size: Any, ones: Sequence[sympy.Symbol]) -> int:
    """A size where some symbols are 1 and the others as in the example."""
    expression = _expression(size)
    if not set(expression.free_symbols) & set(ones):
        return size_hint(size)
    environment = size.node.shape_env
    known = {symbol: symbol_hint(environment, symbol) for symbol in expression.free_symbols if symbol not in ones}
    return int(expression.subs({**known, **dict.fromkeys(ones, 1)}))


def _holds(
    module: nn.Module, inputs: Sequence[Any], graph: Graph, ones: Sequence[sympy.Symbol], usual: tuple[Any, ...]
) -> bool:
    found = _run(module, inputs, graph, dict.fromkeys(ones, 1))
    if found is None or found[0] != usual[0]:
        return False
    try:
        predicted = [
            tuple(_value(size, ones) for size in leaf.meta["val"].shape)
            for leaf in graph.returned
            if isinstance(leaf, torch_fx.Node) and isinstance(leaf.meta.get("val"), torch.Tensor)
        ]
    except (TypeError, ValueError, ZeroDivisionError):
        return False
    return predicted == found[1]


def _run(
    module: nn.Module, inputs: Sequence[Any], graph: Graph, ones: Mapping[sympy.Symbol, int]
) -> tuple[list[str], list[tuple[int, ...]]] | None:
    """Operations and output shapes of a run on fake tensors; None where the module raises."""
    sizes = iter([[_value(size, list(ones)) for size in node.meta["val"].shape] for node in _tensors(graph)])
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty(next(sizes), dtype=value.dtype, device=value.device)

    try:
        with torch.no_grad(), mode:
            given = pytree.tree_map(fake, tuple(inputs))
            with _Operations() as operations:
                result = module(*given)
    except Exception:  # whatever the module raises at these sizes
        return None
    shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    return operations.names, shapes
