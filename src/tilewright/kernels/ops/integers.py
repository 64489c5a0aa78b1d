"""Pointwise operations on integers as Triton text: exact, in the result's own type.

Triton divides towards zero, as C does; torch's `//` and `%` go towards minus infinity. Where a result is a float,
integers become float32 first, as in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import has_data_dependent_size
from tilewright.kernels.ops.elementary import BITWISE, Arguments, Row
from tilewright.kernels.ops.pointwise import POINTWISE, bind_arguments, is_pointwise, pointwise_text

aten = torch.ops.aten

#: Types that kernels compute in.
_COMPUTED = (torch.int32, torch.int64)

#: Types that are only converted from.
_READ = (torch.uint8, torch.int8, torch.int16)

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _binary(template: str) -> Row:
    return lambda a: template.format(a["self"], a["other"])


def _unary(template: str) -> Row:
    return lambda a: template.format(a["self"])


def _sum(sign: str) -> Row:
    def row(a: Arguments) -> str:
        factor = a.get("alpha", "1")
        return f"{a['self']} {sign} {a['other']}" + ("" if factor in (1, "1") else f" * {factor}")

    return row


def _divided(a: Arguments) -> str:
    whole = "floor_divide({0}, {1})" if a.get("rounding_mode") == "floor" else "{0} // {1}"
    return whole.format(a["self"], a["other"])


def _limited(a: Arguments) -> str:
    text = str(a["self"])
    for name, low, high in (("maximum", "min", "min_val"), ("minimum", "max", "max_val")):
        bound = a.get(low, a.get(high))
        text = text if bound is None else f"tl.{name}({text}, {bound})"
    return text


#: What has an integer result.
INTEGER: dict[Any, Row] = {
    aten.add.Tensor: _sum("+"),
    aten.add.Scalar: _sum("+"),
    aten.sub.Tensor: _sum("-"),
    aten.sub.Scalar: _sum("-"),
    aten.rsub.Scalar: lambda a: f"{a['other']} - {a['self']}",
    aten.mul.Tensor: _binary("{0} * {1}"),
    aten.mul.Scalar: _binary("{0} * {1}"),
    aten.neg.default: _unary("-{0}"),
    aten.abs.default: _unary("tl.abs({0})"),
    aten.square.default: _unary("{0} * {0}"),
    aten.floor_divide.default: _binary("floor_divide({0}, {1})"),
    aten.floor_divide.Scalar: _binary("floor_divide({0}, {1})"),
    aten.remainder.Tensor: _binary("remainder({0}, {1})"),
    aten.remainder.Scalar: _binary("remainder({0}, {1})"),
    aten.fmod.Tensor: _binary("{0} % {1}"),
    aten.fmod.Scalar: _binary("{0} % {1}"),
    aten.div.Tensor_mode: _divided,
    aten.div.Scalar_mode: _divided,
    aten.minimum.default: _binary("tl.minimum({0}, {1})"),
    aten.maximum.default: _binary("tl.maximum({0}, {1})"),
    aten.clamp.default: _limited,
    aten.clamp_min.default: _limited,
    aten.clamp_max.default: _limited,
    aten.relu.default: _unary("tl.maximum({0}, 0)"),
    aten.where.self: lambda a: f"tl.where({a['condition']}, {a['self']}, {a['other']})",
    aten.where.ScalarOther: lambda a: f"tl.where({a['condition']}, {a['self']}, {a['other']})",
    aten.where.ScalarSelf: lambda a: f"tl.where({a['condition']}, {a['self']}, {a['other']})",
    aten.masked_fill.Scalar: lambda a: f"tl.where({a['mask']}, {a['value']}, {a['self']})",
    **dict.fromkeys((aten.__and__.Tensor, aten.bitwise_and.Tensor, aten.bitwise_and.Scalar), _binary("{0} & {1}")),
    **dict.fromkeys((aten.__or__.Tensor, aten.bitwise_or.Tensor, aten.bitwise_or.Scalar), _binary("{0} | {1}")),
    **dict.fromkeys((aten.__xor__.Tensor, aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar), _binary("{0} ^ {1}")),
    **dict.fromkeys((aten.__and__.Scalar,), _binary("{0} & {1}")),
    **dict.fromkeys((aten.__or__.Scalar,), _binary("{0} | {1}")),
    **dict.fromkeys((aten.__xor__.Scalar,), _binary("{0} ^ {1}")),
    **dict.fromkeys(
        (aten.__lshift__.Scalar, aten.__lshift__.Tensor, aten.bitwise_left_shift.Tensor), _binary("{0} << {1}")
    ),
    **dict.fromkeys(
        (aten.__rshift__.Scalar, aten.__rshift__.Tensor, aten.bitwise_right_shift.Tensor), _binary("{0} >> {1}")
    ),
    aten.bitwise_left_shift.Tensor_Scalar: _binary("{0} << {1}"),
    aten.bitwise_right_shift.Tensor_Scalar: _binary("{0} >> {1}"),
    aten.bitwise_not.default: _unary("~{0}"),
    aten._to_copy.default: _unary("{0}"),
    aten.to.dtype: _unary("{0}"),
}

#: What has a bool result, of bools or integers.
BOOLEAN: dict[Any, Row] = {
    **{
        target: POINTWISE[target]
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
        for target in (getattr(aten, name).Tensor, getattr(aten, name).Scalar)
    },
    aten.logical_not.default: POINTWISE[aten.logical_not.default],
    aten.logical_and.default: POINTWISE[aten.logical_and.default],
    aten.logical_or.default: POINTWISE[aten.logical_or.default],
    aten.logical_xor.default: POINTWISE[aten.logical_xor.default],
    **BITWISE,
    aten._to_copy.default: _unary("{0} != 0"),
    aten.to.dtype: _unary("{0} != 0"),
}

_CONVERSIONS = (aten._to_copy.default, aten.to.dtype)

#: Operands that choose between others, and keep their own type.
_CONDITIONS = ("condition", "mask")


def is_elementwise(node: torch_fx.Node) -> bool:
    """True for pointwise operations of any type that a kernel without reductions computes."""
    return is_pointwise(node) or is_integer_operation(node)


def is_integer_operation(node: torch_fx.Node) -> bool:
    """True for a pointwise operation that reads or makes integers, or makes bools of bools."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor) or is_pointwise(node):
        return False
    if has_data_dependent_size(node):
        return False
    if set(node.kwargs) - {"dtype", "rounding_mode", "alpha"} or not node.all_input_nodes:
        return False
    types = [source.meta["val"].dtype for source in node.all_input_nodes if _is_tensor(source)]
    if len(types) != len(node.all_input_nodes):
        return False
    converts = node.target in _CONVERSIONS
    if any(kind not in (*_COMPUTED, *_FLOATS, torch.bool, *(_READ if converts else ())) for kind in types):
        return False
    if value.dtype in _COMPUTED:
        return node.target in INTEGER and (converts or not set(types) & set(_FLOATS)) and _takes_whole_numbers(node)
    if value.dtype is torch.bool:
        return node.target in BOOLEAN
    made_of_integers = bool({*_COMPUTED, *_READ} & set(types))
    return value.dtype in _FLOATS and made_of_integers and (converts or node.target in POINTWISE)


def _is_tensor(node: torch_fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _takes_whole_numbers(node: torch_fx.Node) -> bool:
    return not any(type(item) is float for item in node.args)


_TRITON_TYPES = {torch.int32: "tl.int32", torch.int64: "tl.int64"}


def elementwise_text(node: torch_fx.Node, text_of: Callable[[Any], str]) -> str:
    """The operation as a Triton expression, whatever its type."""
    if is_pointwise(node):
        return pointwise_text(node, text_of)
    value = node.meta["val"]
    if value.dtype in _COMPUTED:
        wanted = _TRITON_TYPES[value.dtype]
        text = INTEGER[node.target](_arguments(node, text_of, wanted, (value.dtype,)))
        return f"({text}).to({wanted})" if node.target not in _CONVERSIONS else text
    if value.dtype is torch.bool:
        floats = any(s.meta["val"].dtype in _FLOATS for s in node.all_input_nodes) or not _takes_whole_numbers(node)
        kept = (torch.bool, *_COMPUTED) if not floats else (torch.bool, *_FLOATS)
        return BOOLEAN[node.target](_arguments(node, text_of, "tl.float32", kept))
    if node.target in _CONVERSIONS:
        return f"{text_of(node.args[0])}.to(tl.float32)"
    return POINTWISE[node.target](_arguments(node, text_of, "tl.float32", (torch.bool, *_FLOATS)))


def _arguments(
    node: torch_fx.Node, text_of: Callable[[Any], str], wanted: str, kept: tuple[torch.dtype, ...]
) -> dict[str, Any]:
    """The operation's arguments as text; tensors of other types than the kept ones are converted."""

    def text(name: str, item: Any) -> Any:
        if isinstance(item, torch_fx.Node):
            same = name in _CONDITIONS or item.meta["val"].dtype in kept
            return text_of(item) if same else f"{text_of(item)}.to({wanted})"
        return text_of(item) if type(item) in (int, float, bool) else item

    return {name: text(name, item) for name, item in bind_arguments(node).items()}


def load_cast(dtype: torch.dtype) -> str:
    """What follows a load: floats are computed in float32, integers and bools as they are."""
    return ".to(tl.float32)" if dtype.is_floating_point else ""
