"""Which memory the outputs of a forward pass share; copies where rules made them share more than the reference's."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import target_of
from tilewright.graph.rewrite import Editor, copy_graph

aten = torch.ops.aten

#: Operations whose result lies, or may lie, in the memory of their first argument.
_VIEWS = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.expand.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.narrow.default,
        aten.alias.default,
        aten.detach.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.unbind.int,
        aten.as_strided.default,
        aten.diagonal.default,
        aten.contiguous.default,
        operator.getitem,
    }
)


def separate_outputs(captured: Graph, simplified: Graph) -> Graph:
    """The simplified graph, with a copy where an output shares memory that it does not share in the captured one.

    A rule that drops an operation which changes nothing (`clone(x)`, `x * 1`) would otherwise hand out an input, or
    the same tensor twice, and a caller who writes into one would change the other.
    """
    before = [_memory(leaf) for leaf in captured.returned]
    if not any(isinstance(leaf, torch_fx.Node) for leaf in captured.returned):
        return simplified
    result = copy_graph(simplified)
    output = next(node for node in result.fx.nodes if node.op == "output")
    leaves: list[Any] = list(result.returned)
    own: dict[torch_fx.Node, torch_fx.Node | None] = {}  # memory -> what it is in the captured graph
    for position, leaf in enumerate(leaves):
        memory, wanted = _memory(leaf), before[position]
        if memory is None or wanted is None or not isinstance(leaf.meta.get("val"), torch.Tensor):
            continue
        given = memory.op == "placeholder"
        shared = given and not (wanted.op == "placeholder" and wanted.name == memory.name)
        shared = shared or (not given and own.setdefault(memory, wanted) is not wanted)
        if shared:
            leaves[position] = Editor(result.fx, output).call(aten.clone.default, leaf)
    output.args = (tuple(leaves),)
    return replace(result, outputs=tuple(leaf.name for leaf in leaves if isinstance(leaf, torch_fx.Node)))


def _memory(leaf: object) -> torch_fx.Node | None:
    """The node whose memory a returned tensor lies in; None for what is no tensor."""
    if not isinstance(leaf, torch_fx.Node):
        return None
    while target_of(leaf) in _VIEWS and isinstance(leaf.args[0], torch_fx.Node):
        leaf = leaf.args[0]
    return leaf
