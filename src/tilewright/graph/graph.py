"""The captured graph: torch.export's ATen graph, with what the algebra and the planner ask of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx as torch_fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from tilewright.graph.arguments import InputArgument, Structure


@dataclass(frozen=True)
class LinkedScalar:
    """A float in the graph that is an attribute of the module or an argument, so that emitted code can read it there.

    Attributes:
        path: attribute path from the root module (`add_value`, `act.negative_slope`), or an argument's name.
        value: its value when it was captured.
        is_argument: it is an argument of the call.
        asked: how the forward pass found it to compare with numbers, as conditions on `{}`.
    """

    path: str
    value: float
    is_argument: bool = False
    asked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A module's forward pass in eval mode as a pre-dispatch ATen graph.

    Attributes:
        fx: the graph; node.meta["val"] holds fake tensors whose sizes may be symbolic.
        parameters: placeholder name -> parameter's name in the module.
        buffers: placeholder name -> buffer's name in the module.
        constants: placeholder name -> tensor that is neither a parameter nor a buffer.
        constant_names: placeholder name -> name of such a tensor, an attribute's path where it is one.
        inputs: names of the placeholders of the call's leaves, in its order; those of constants have no users.
        outputs: names of the nodes that are returned, in order.
        single_output: the forward pass returns a tensor, not a tuple or list.
        linked: float in the graph -> the module attribute that it is.
        dynamic: sizes are symbolic where the module accepts others.
        arguments: what each parameter of forward was given, in the order of the call: tensors and constants.
        structure: how the returned leaves (the arguments of the output node: nodes and constants) are packed.
        guards: what the capture assumed of the inputs' sizes, as templates (see `size_guards`).
        reads: path of a part of the module -> what the forward pass read of it -> its plain value (see
            `tilewright.graph.watched.plain`).
        signature: of the module's forward pass, without self.
    """

    fx: torch_fx.Graph
    parameters: Mapping[str, str]
    buffers: Mapping[str, str]
    constants: Mapping[str, torch.Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    single_output: bool = True
    constant_names: Mapping[str, str] = field(default_factory=dict)
    linked: Mapping[float, LinkedScalar] = field(default_factory=dict)
    dynamic: bool = True
    arguments: tuple[InputArgument, ...] = ()
    structure: Structure | None = None
    guards: tuple[str, ...] = ()
    reads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    signature: inspect.Signature = field(default_factory=inspect.Signature)

    @property
    def returned(self) -> tuple[Any, ...]:
        """The returned leaves in order: nodes, numbers, None."""
        leaves: tuple[Any, ...] = tuple(next(node for node in self.fx.nodes if node.op == "output").args[0])
        return leaves

    def node(self, name: str) -> torch_fx.Node:
        """The node of that name.

        Raises:
            KeyError: there is none.
        """
        nodes: dict[str, torch_fx.Node] = {node.name: node for node in self.fx.nodes}
        return nodes[name]

    def shape_of(self, node: torch_fx.Node) -> tuple[int, ...]:
        """Concrete sizes of a node's tensor at the example inputs, in elements."""
        return tuple(size_hint(size) for size in node.meta["val"].shape)

    def state_names(self) -> Mapping[str, str]:
        """Placeholder name -> name in the module, for parameters and buffers together."""
        return {**self.parameters, **self.buffers}


def size_hint(size: Any) -> int:
    """The value that a size has at the example inputs: itself, or a SymInt's hint; 1 where the data decide."""
    if isinstance(size, int):
        return size
    node = size.node
    if node.hint is not None:
        return int(node.hint)
    if _is_data_dependent(size):
        return 1
    return int(node.shape_env.size_hint(node.expr))


def _is_data_dependent(size: Any) -> bool:
    """True for a size that follows from the elements of a tensor (`nonzero`)."""
    return isinstance(size, torch.SymInt) and bool(free_unbacked_symbols(size))


def has_data_dependent_size(node: torch_fx.Node) -> bool:
    """True where a tensor that a node makes or reads has a size that only its elements decide."""
    values = [found.meta.get("val") for found in (node, *node.all_input_nodes)]
    return any(_is_data_dependent(size) for value in values for size in getattr(value, "shape", ()))


def fixed_size(size: Any) -> int | None:
    """The only value that a size may have, as far as the capture found out; None for one that may vary."""
    if isinstance(size, int):
        return size
    expression = size.node.shape_env.replace(size.node.expr)
    return int(expression) if expression.is_number else None


def is_tensor_node(node: torch_fx.Node) -> bool:
    """True where the node's value is one tensor."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def is_parameter_only(node: torch_fx.Node, graph: Graph) -> bool:
    """True where a value depends on parameters, buffers and constants alone."""
    if node.op == "placeholder":
        return node.name not in graph.inputs
    if node.op != "call_function":
        return False
    return all(is_parameter_only(source, graph) for source in node.all_input_nodes)
