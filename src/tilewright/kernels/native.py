"""Operations that stay with PyTorch, as Python text that reads like hand-written code."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.nodes import target_of
from tilewright.kernels.ops.pointwise import bind_arguments
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.region import is_relabelling

aten = torch.ops.aten

#: ATen operation -> the function that people call; its arguments have the schema's order.
_FUNCTIONS: dict[Any, str] = {
    aten.conv1d.default: "F.conv1d",
    aten.conv2d.default: "F.conv2d",
    aten.conv3d.default: "F.conv3d",
    aten.conv_transpose1d.default: "F.conv_transpose1d",
    aten.conv_transpose2d.input: "F.conv_transpose2d",
    aten.conv_transpose3d.input: "F.conv_transpose3d",
    aten.linear.default: "F.linear",
    aten.matmul.default: "torch.matmul",
    aten.mm.default: "torch.mm",
    aten.bmm.default: "torch.bmm",
    aten.addmm.default: "torch.addmm",
    aten.layer_norm.default: "F.layer_norm",
    aten.group_norm.default: "F.group_norm",
    aten.softmax.int: "torch.softmax",
    aten.logsumexp.default: "torch.logsumexp",
    aten.max_pool2d.default: "F.max_pool2d",
    aten.avg_pool2d.default: "F.avg_pool2d",
    aten.cat.default: "torch.cat",
    aten.arange.default: "torch.arange",
    aten.arange.start: "torch.arange",
    aten.arange.start_step: "torch.arange",
    aten.zeros.default: "torch.zeros",
    aten.ones.default: "torch.ones",
    aten.full.default: "torch.full",
    aten.eye.default: "torch.eye",
    aten.eye.m: "torch.eye",
    aten.linspace.default: "torch.linspace",
    aten.triu.default: "torch.triu",
    aten.tril.default: "torch.tril",
    aten.argmax.default: "torch.argmax",
    aten.argmin.default: "torch.argmin",
}

#: Arguments that only ATen's form of a function has.
_ATEN_ONLY = {aten.layer_norm.default: {"cudnn_enable"}, aten.group_norm.default: {"cudnn_enabled"}}

#: Native operations that run fastest on channels-last tensors on tensor cores.
CONVOLUTIONS: frozenset[Any] = frozenset(
    {aten.conv2d.default, aten.conv3d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
)

_VIEWS: dict[Any, str] = {
    aten.view.default: "reshape",
    aten.reshape.default: "reshape",
    aten.permute.default: "permute",
    aten.transpose.int: "transpose",
    aten.unsqueeze.default: "unsqueeze",
    aten.expand.default: "expand",
    aten.squeeze.dim: "squeeze",
    aten.flatten.using_ints: "flatten",
}

_SYMBOLIC = {operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.mod: "%"}


def operation_name(node: torch_fx.Node) -> str:
    """Name for people: `conv_transpose2d`."""
    return str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)


#: Operations that only say how memory is read.
_ONLY_VIEWS = frozenset(
    [
        *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "select", "slice", "narrow", "unfold", "split"),
        *(
            "split_with_sizes",
            "chunk",
            "unbind",
            "alias",
            "detach",
            "as_strided",
            "movedim",
            "swapaxes",
            "diagonal",
            "broadcast_tensors",
        ),
    ]
)


def makes_values(node: torch_fx.Node) -> bool:
    """Whether an operation computes or copies: it makes one tensor or several, and is no view of others."""
    value = node.meta.get("val")
    several = isinstance(value, tuple | list) and any(isinstance(item, torch.Tensor) for item in value)
    if node.target is operator.getitem or not (several or isinstance(value, torch.Tensor)):
        return False
    return not is_relabelling(node) and operation_name(node) not in _ONLY_VIEWS


def laid_out_text(text: str, form: str) -> str:
    """A tensor's expression in a memory format of torch's; nothing is copied where it lies so already."""
    return f"{text}.contiguous(memory_format={form})"


def native_text(
    node: torch_fx.Node,
    text_of: Callable[[Any], str],
    formats: Mapping[torch_fx.Node, MemoryFormat],
    weight_in: Callable[[torch_fx.Node, str], str] | None = None,
) -> str:
    """One native operation as an expression.

    Args:
        node: the operation.
        text_of: text of a node or a constant.
        formats: memory format that the planner chose for the results of convolutions.
        weight_in: text of a convolution's weight in a memory format of torch's; without it, copied in every call.
    """
    if node.target in _SYMBOLIC:
        return f"{text_of(node.args[0])} {_SYMBOLIC[node.target]} {text_of(node.args[1])}"
    if node.target is operator.getitem:
        return f"{text_of(node.args[0])}[{node.args[1]}]"
    if node.target is aten.sym_size.int:
        return f"{text_of(node.args[0])}.shape[{node.args[1]}]"
    if node.target in _VIEWS:
        rest = ", ".join(text_of(argument) for argument in node.args[1:])
        return f"{text_of(node.args[0])}.{_VIEWS[node.target]}({rest})"
    if node.target in CONVOLUTIONS and formats.get(node) is MemoryFormat.CHANNELS_LAST:
        return _channels_last_convolution(node, text_of, weight_in or (lambda w, form: laid_out_text(text_of(w), form)))
    if node.target in _FUNCTIONS:
        return f"{_FUNCTIONS[node.target]}({_arguments(node, text_of)})"
    positional = [text_of(argument) for argument in node.args]
    named = [f"{name}={text_of(value)}" for name, value in node.kwargs.items()]
    return f"torch.ops.{node.target}({', '.join(positional + named)})"


def _arguments(node: torch_fx.Node, text_of: Callable[[Any], str]) -> str:
    left_out = _ATEN_ONLY.get(target_of(node), set())
    defaults = {
        argument.name: argument.default_value
        for argument in node.target._schema.arguments  # type: ignore[union-attr]
        if argument.has_default_value()
    }
    parts = []
    positional = True
    named_only = {argument.name for argument in node.target._schema.arguments if argument.kwarg_only}  # type: ignore[union-attr]
    for name, value in bind_arguments(node).items():
        if name in left_out or (name == "pin_memory" and not value):
            continue
        positional = positional and name not in named_only
        if name in defaults and _same(value, defaults[name]):
            positional = False
            continue
        parts.append(text_of(value) if positional else f"{_keyword(node, name)}={text_of(value)}")
    return ", ".join(parts)


def _keyword(node: torch_fx.Node, name: str) -> str:
    return {"self": "input"}.get(name, name)


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(default, list | tuple):
        return list(value) == list(default)
    if isinstance(value, torch_fx.Node) or isinstance(default, torch_fx.Node):
        return False
    if isinstance(value, list | tuple) and isinstance(default, int):
        return all(item == default for item in value)
    return bool(value == default)


def memory_format_text(rank: int) -> str:
    """torch's name of the channels-last format for tensors of that rank."""
    return "torch.channels_last" if rank == 4 else "torch.channels_last_3d"


def _channels_last_convolution(
    node: torch_fx.Node, text_of: Callable[[Any], str], weight_in: Callable[[torch_fx.Node, str], str]
) -> str:
    form = memory_format_text(node.meta["val"].dim())
    data, weight = node.args[:2]

    def channels_last(item: Any) -> str:
        if isinstance(item, torch_fx.Node) and item is weight:
            return weight_in(item, form)
        return laid_out_text(text_of(item), form) if item is data else text_of(item)

    return laid_out_text(f"{_FUNCTIONS[node.target]}({_arguments(node, channels_last)})", form)
