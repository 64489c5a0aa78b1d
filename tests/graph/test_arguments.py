"""What a captured graph says of the call: each argument, how outputs are packed, what was assumed of sizes."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

from tilewright.errors import CaptureError
from tilewright.graph.arguments import InputArgument, output_structure
from tilewright.graph.capture import capture
from tilewright.graph.graph import Graph
from tilewright.graph.rewrite import copy_graph


def captured(function: Callable[..., Any], *inputs: Any) -> Graph:
    class Model(nn.Module):
        forward = function

    return copy_graph(capture(Model(), inputs))  # a copy renames nodes: all names follow


def test_tensors_and_constants() -> None:
    def forward(self: Any, x: torch.Tensor, gain: float, mask: None, steps: int = 3, *, act: str = "none") -> Any:
        return x * gain + steps

    graph = captured(forward, torch.randn(4, 5), 1.5, None)
    assert graph.arguments == (
        InputArgument("x", 0, placeholder="x"),
        InputArgument("gain", 1, value=1.5),
        InputArgument("mask", 2, value=None),
        InputArgument("steps", 3, value=3, given=False),
        InputArgument("act", 4, value="none", given=False),
    )


def test_containers() -> None:
    def forward(self: Any, d: dict[str, Any], *more: torch.Tensor) -> Any:
        return d["a"][0] * d["b"] + more[1]

    graph = captured(forward, {"a": [torch.randn(4, 5)], "b": 2}, torch.randn(5), torch.randn(5))
    assert [argument.name for argument in graph.arguments] == ['d["a"][0]', 'd["b"]', "more[0]", "more[1]"]
    assert [argument.placeholder is None for argument in graph.arguments] == [False, True, False, False]


def test_a_name_that_python_has() -> None:
    graph = captured(lambda self, input: input * 2, torch.randn(4, 5))
    (argument,) = graph.arguments
    assert argument.parameter == "input"
    assert argument.placeholder in {node.name for node in graph.fx.nodes}


_Pair = namedtuple("_Pair", "first second")
_LEAVES = st.sampled_from([0, 1])
_PACKED = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b c", 'd"', 3]), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(_PACKED)
@settings(max_examples=60, deadline=None)
def test_structures_are_built_again(packed: Any) -> None:
    leaves, spec = pytree.tree_flatten(packed)
    assert eval(output_structure(spec).text(map(repr, leaves))) == packed


def test_everything_that_is_returned() -> None:
    graph = captured(lambda self, x: {"y": x * 2, "none": None, "k": 3, "in": (x, x.max(1))}, torch.randn(4, 5))
    assert graph.structure is not None
    texts = [leaf.name if isinstance(leaf, torch.fx.Node) else repr(leaf) for leaf in graph.returned]
    assert graph.structure.text(iter(texts)) == (
        '{"y": mul, "none": None, "k": 3, "in": (x, torch.return_types.max((getitem, getitem_1)))}'
    )


def test_a_type_that_cannot_be_built_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match="_Pair"):
        captured(lambda self, x: _Pair(x * 2, x), torch.randn(4, 5))


# -- sizes -------------------------------------------------------------------------------------------------

ASSUMED: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], set[str]]] = {
    "sizes that meet": (
        lambda self, x, y: x + y,
        [(4, 5), (4, 5)],
        {"{y}.shape[0] == {x}.shape[0]", "{y}.shape[1] == {x}.shape[1]"},
    ),
    "a multiple": (
        lambda self, x, y: torch.cat([x, x], 1) * y,
        [(4, 5), (4, 10)],
        {"{y}.shape[0] == {x}.shape[0]", "{y}.shape[1] == 2*{x}.shape[1]"},
    ),
    "a part": (lambda self, x: x[:, :4] * 2, [(6, 9)], {"{x}.shape[1] >= 5"}),
    "a branch": (lambda self, x: x * 2 if x.shape[1] > 6 else x, [(6, 9)], {"{x}.shape[1] >= 7"}),
    "a product": (lambda self, x, y: x @ y, [(4, 5), (5, 6)], {"{y}.shape[0] == {x}.shape[1]"}),
    "nothing": (lambda self, x: x * 2, [(4, 5)], set()),
}


@pytest.mark.parametrize("name", ASSUMED)
def test_guards(name: str) -> None:
    function, shapes, wanted = ASSUMED[name]
    graph = captured(function, *map(torch.randn, shapes))
    assert wanted <= set(graph.guards)
    assert bool(wanted) == bool(graph.guards)


def holds(guard: str, x: torch.Tensor, y: torch.Tensor) -> bool:
    return bool(eval(guard.format(x="x", y="y"), {"x": x, "y": y}))


@example(sizes=[2, 2, 2, 2], parts=3)  # its guard divides by a size that is 0 at smaller ones
@given(st.lists(st.integers(2, 12), min_size=4, max_size=4), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_guards_hold_where_the_capture_does(sizes: list[int], parts: int) -> None:
    """They hold at the example, and raise at no size from 1 on."""
    a, b, c, d = sizes

    def forward(self: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0] // parts, parts, -1).sum(1) + y

    x, y = torch.randn(a * parts, b, c), torch.randn(a, b * c)
    graph = captured(forward, x, y)
    assert all(holds(guard, x, y) for guard in graph.guards)
    for shape in ((1, 1, 1), (d, 1, 2), (1, d, 3), (d, c, b)):
        x, y = torch.empty(shape), torch.empty(shape[:2])
        all(holds(guard, x, y) for guard in graph.guards)
