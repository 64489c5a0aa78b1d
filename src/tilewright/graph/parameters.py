"""Which operations of a graph depend on parameters and buffers alone.

An emitted module keeps nothing of them between calls, so that every change of a parameter is seen. Pointwise arithmetic
(a batch norm's scale, the sum of two biases) is computed by each kernel that reads it, at its own small shape; anything
else (a sum over weights) is a step of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph

#: Keys in a node's meta.
_OF_PARAMETERS = "of_parameters"
_ARITHMETIC = "parameter_arithmetic"


def note_parameters(graph: Graph, is_arithmetic: Callable[[torch_fx.Node], bool]) -> None:
    """Note at each operation whether it depends on parameters alone, and whether kernels may compute it themselves.

    Args:
        graph: its nodes' meta changes.
        is_arithmetic: true for operations that a kernel can compute element by element.
    """
    for node in graph.fx.nodes:
        node.meta[_OF_PARAMETERS] = _depends_on_parameters(node, graph)
        node.meta[_ARITHMETIC] = (
            node.meta[_OF_PARAMETERS]
            and is_arithmetic(node)
            and all(source.op == "placeholder" or source.meta[_ARITHMETIC] for source in node.all_input_nodes)
        )


def _depends_on_parameters(node: torch_fx.Node, graph: Graph) -> bool:
    sources = node.all_input_nodes
    if node.op != "call_function" or not sources or not isinstance(node.meta.get("val"), torch.Tensor | tuple | list):
        return False
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    return all(s.name not in graph.inputs if s.op == "placeholder" else s.meta[_OF_PARAMETERS] for s in sources)


def is_of_parameters(node: torch_fx.Node) -> bool:
    """True for an operation whose operands are parameters, buffers, constants, or made of these alone."""
    return bool(node.meta.get(_OF_PARAMETERS))


def is_parameter_arithmetic(node: torch_fx.Node) -> bool:
    """True for one that each kernel that reads it computes for itself, whoever else reads it too."""
    return bool(node.meta.get(_ARITHMETIC))
