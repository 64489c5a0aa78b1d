"""Runs a captured graph on real tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from tilewright.graph.constants import is_written_down
from tilewright.graph.graph import Graph


def run_all(graph: Graph, module: nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """All outputs."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    values = []
    for node in graph.fx.nodes:
        if node.op != "placeholder":
            continue
        if node.name in graph.inputs:
            values.append(inputs[graph.inputs.index(node.name)])
        elif node.name in graph.state_names():
            values.append(state[graph.state_names()[node.name]])
        elif is_written_down(node.name, graph):
            values.append(graph.constants[node.name])
        else:
            values.append(getattr(module, graph.constant_names[node.name]))
    return fx.Interpreter(fx.GraphModule(nn.Module(), graph.fx)).run(*values)


def run(graph: Graph, module: nn.Module, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The first output."""
    return run_all(graph, module, inputs)[0]
