"""The work of a captured graph: bytes that must move and operations that must be done, counted exactly.

`count_work` counts a graph as a whole: every input, parameter and output once, whatever the implementation.
`count_nodes` counts each node as a kernel of its own, as eager PyTorch runs it: its tensors in and out.

A multiplication and an addition are one operation each. Contractions are counted without the products that
are known to be zero: taps of a convolution that fall into its padding, and the zeros between the elements of
a transposed convolution's input (what is left is the sum over its output phases).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from tilewright.graph.contractions import (
    CONVOLUTIONS,
    attention_pairs,
    elements,
    is_transposed,
    matrix_operations,
    per_dim,
    sizes_of,
    tensors_in,
)
from tilewright.graph.graph import Graph, size_hint
from tilewright.values.measurement import Work

#: float32 operations that one special-function instruction is worth: a multiprocessor finishes 16 of them a
#: clock and 128 float32 ones (CUDA C++ Programming Guide, "Arithmetic Instructions", capability 8.6 to 9.0).
SPECIAL_FUNCTION = 8

#: Scalar operations of one element: an exponential is a scaling and one special-function instruction (ex2).
_EXP = SPECIAL_FUNCTION + 1
#: erf without a special-function instruction: a polynomial of degree 11 by Horner's rule, and its sign.
_ERF = 2 * 11 + 2

#: Pointwise operation -> operations of one element of its output. What is not listed counts as one.
POINTWISE_WEIGHTS: Mapping[str, int] = {
    **dict.fromkeys(("exp", "exp2", "log", "log2", "log10", "sin", "cos", "expm1", "log1p"), _EXP),
    **dict.fromkeys(("sqrt", "rsqrt", "reciprocal", "div", "true_divide", "floor_divide"), SPECIAL_FUNCTION),
    **dict.fromkeys(("remainder", "fmod"), SPECIAL_FUNCTION + 2),
    **dict.fromkeys(("pow", "float_power", "tan", "atan2", "atan", "asin", "acos"), 2 * SPECIAL_FUNCTION + 1),
    **dict.fromkeys(("sigmoid", "log_sigmoid", "silu", "tanh", "softplus", "elu", "celu", "selu"), _EXP + 9),
    **dict.fromkeys(("erf", "erfc"), _ERF),
    "gelu": _ERF + 4,
    "mish": 2 * _EXP + 12,
    "hardswish": 4,
    "hardsigmoid": 3,
    **dict.fromkeys(("clamp", "hardtanh", "relu6", "leaky_relu", "addcmul", "addcdiv", "lerp", "softsign"), 2),
    "batch_norm": 2,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), 2),
    **dict.fromkeys(("lstm", "gru"), 5 * (_EXP + 9)),
    **dict.fromkeys(("rnn_tanh", "rnn_relu"), _EXP + 9),
}
#: Powers that need no logarithm.
_SMALL_POWERS: Mapping[float, int] = {
    1: 0,
    2: 1,
    3: 2,
    0.5: SPECIAL_FUNCTION,
    -0.5: SPECIAL_FUNCTION,
    -1: SPECIAL_FUNCTION,
}

#: Operations that read each element of their input so many times over: weight of one input element.
REDUCTION_WEIGHTS: Mapping[str, int] = {
    **dict.fromkeys(("sum", "mean", "amax", "amin", "max", "min", "aminmax", "prod", "any", "all", "nansum"), 1),
    **dict.fromkeys(("argmax", "argmin", "count_nonzero", "cumsum", "cumprod", "cummax", "cummin", "topk"), 1),
    **dict.fromkeys(("linalg_vector_norm", "norm", "frobenius_norm"), 2),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), 4),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), 1),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), 1),
    **dict.fromkeys(("logsumexp", "logcumsumexp"), _EXP + 2),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _EXP + 4),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm"), 7),
    "rms_norm": 4,
    "cosine_similarity": 6,
}

#: Copies: bytes move and nothing is computed.
_COPIES = frozenset(
    """
    clone contiguous to _to_copy cat stack constant_pad_nd pad repeat repeat_interleave index
    index_select gather embedding roll flip zeros zeros_like ones ones_like full full_like empty
    empty_like arange copy_ fill_ zero_ tril triu alias detach expand_copy reshape flatten unflatten
    pixel_shuffle pixel_unshuffle
    """.split()  # noqa: SIM905
)
#: Operations that return their input in eval mode.
_IDENTITIES = frozenset(
    ["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "lift_fresh_copy", "_unsafe_view"]
)
_WINDOWS = frozenset(["max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"])


@dataclass(frozen=True)
class NodeWork:
    """The work of one node, as a kernel of its own.

    Attributes:
        name: the node's name in the graph.
        operation: ATen name without overload (`conv2d`, `gelu`).
        read_bytes: its tensors in, once each (an expanded operand as often as it is stored); 0 for a view.
        written_bytes: its tensors out; 0 for a view.
        matrix_operations: of a contraction, without products with padding.
        scalar_operations: the rest.
        convolution: True for a convolution of either kind.
        transposed_convolution: True for a transposed one.
        has_bias: a convolution or linear layer with a bias.
        rows: of a normalisation, how many it normalises, each on its own; 0 for any other operation.
    """

    name: str
    operation: str
    read_bytes: int
    written_bytes: int
    matrix_operations: int
    scalar_operations: int
    convolution: bool = False
    transposed_convolution: bool = False
    has_bias: bool = False
    rows: int = 0

    @property
    def moves_nothing(self) -> bool:
        """A view, an identity or a value that is no tensor: no kernel runs."""
        return self.read_bytes == 0 and self.written_bytes == 0


def count_work(graph: Graph, inputs: Sequence[Any] | None = None) -> Work:
    """The work of `graph` at the shapes of its example inputs.

    Args:
        graph: the captured (or rewritten) graph.
        inputs: other inputs to count it for; tensors of any device, their values are not read. Give the
            real ones where capture may have widened them (a batch of one).

    Returns:
        Bytes of every input, parameter, buffer and constant whose values are used, and of every output,
        once each; operations of every node.
    """
    values = _values(graph, inputs)
    read = sum(_used_bytes(node, values) for node in graph.fx.nodes if node.op in ("placeholder", "get_attr"))
    outputs = {name for name in graph.outputs if graph.node(name).op != "placeholder"}
    written = sum(_bytes(tensors_in(values.get(graph.node(name)))) for name in outputs)
    nodes = [_count(node, values) for node in graph.fx.nodes if node.op == "call_function"]
    return Work(
        read_bytes=read,
        written_bytes=written,
        matrix_operations=sum(node.matrix_operations for node in nodes),
        scalar_operations=sum(node.scalar_operations for node in nodes),
    )


def count_nodes(graph: Graph, inputs: Sequence[Any] | None = None) -> tuple[NodeWork, ...]:
    """The work of each operation of `graph` as a kernel of its own, in order, views included (with no bytes).

    Args:
        graph: the captured graph.
        inputs: as for `count_work`.
    """
    values = _values(graph, inputs)
    return tuple(_count(node, values) for node in graph.fx.nodes if node.op == "call_function")


# ---------------------------------------------------------------------------------------------------------
# Values of nodes: fake tensors, at the example inputs or at others


class _Shapes(fx.Interpreter):
    """Runs a graph on fake tensors and keeps each node's value; assertions on sizes are passed over."""

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(torch.nn.Module(), graph), garbage_collect_values=False)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and remember its value."""
        checks = n.op == "call_function" and "assert" in getattr(n.target, "__name__", str(n.target))
        value = None if checks else super().run_node(n)
        self.values[n.name] = value
        return value


def _values(graph: Graph, inputs: Sequence[Any] | None) -> Mapping[fx.Node, Any]:
    if inputs is None:
        return {node: node.meta.get("val") for node in graph.fx.nodes}
    given = dict(zip(graph.inputs, _flat(inputs), strict=True))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    placeholders = []
    for node in graph.fx.nodes:
        if node.op == "placeholder":
            value = given.get(node.name, node.meta.get("val"))
            placeholders.append(_fake(mode, value) if isinstance(value, torch.Tensor) else value)
    shapes = _Shapes(graph.fx)
    with mode, torch.no_grad():
        shapes.run(*placeholders)
    return {node: shapes.values.get(node.name) for node in graph.fx.nodes}


def _fake(mode: FakeTensorMode, value: torch.Tensor) -> torch.Tensor:
    shape = tuple(size_hint(size) for size in value.shape)
    stride = tuple(size_hint(step) for step in value.stride())
    with mode:
        return torch.empty_strided(shape, stride, dtype=value.dtype)


def _flat(inputs: Sequence[Any]) -> list[Any]:
    leaves: list[Any] = torch.utils._pytree.tree_leaves(list(inputs))
    return leaves


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes that are stored: an expanded dim (stride 0) holds its elements once."""
    total = 0
    for tensor in tensors:
        steps = zip(sizes_of(tensor), tensor.stride(), strict=True)
        total += tensor.element_size() * math.prod(1 if size_hint(step) == 0 and size else size for size, step in steps)
    return total


# ---------------------------------------------------------------------------------------------------------
# Bytes


def _operation(node: fx.Node) -> str:
    """ATen name without overload and without the underscore of the in-place form."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name: str = target._schema.name.split("::")[-1]
        return name[:-1] if name.endswith("_") and not name.endswith("__") and name not in _COPIES else name
    return getattr(target, "__name__", str(target))


def _reads_values(user: fx.Node) -> bool:
    """False for nodes that only ask for a size or check metadata."""
    name = _operation(user)
    return not (name.startswith(("sym_", "_assert", "_check")) or "assert" in name)


def _used_bytes(node: fx.Node, values: Mapping[fx.Node, Any]) -> int:
    """Bytes of a placeholder that the graph reads: of a table that is only looked up in, the rows."""
    tensors = tensors_in(values.get(node))
    users = [user for user in node.users if _reads_values(user) and user.op != "output"]
    if not tensors or not users:
        return 0
    total = _bytes(tensors)
    if all(_operation(user) == "embedding" and user.args[0] is node for user in users):
        return min(total, sum(_bytes(tensors_in(values.get(user))) for user in users))
    return total


def _is_view(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """True where the node's result is memory of an operand, unchanged."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True  # getitem and arithmetic on sizes
    if _operation(node) in _IDENTITIES:
        return True
    aliases = [result.alias_info for result in target._schema.returns]
    if not any(alias is not None and not alias.is_write for alias in aliases):
        return not tensors_in(values.get(node))
    operands = {_storage(tensor) for operand in node.all_input_nodes for tensor in tensors_in(values.get(operand))}
    return all(_storage(tensor) in operands for tensor in tensors_in(values.get(node)))


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _node_bytes(node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[int, int]:
    """(read, written) bytes of a node that is a kernel of its own."""
    results = tensors_in(values.get(node))
    written = sum(elements(tensor) * tensor.element_size() for tensor in results)
    if _operation(node) in ("embedding", "index_select", "gather", "index"):
        table, *others = node.all_input_nodes
        rows = min(_bytes(tensors_in(values.get(table))), written)
        return rows + sum(_bytes(tensors_in(values.get(other))) for other in others), written
    if _operation(node) in ("zeros_like", "ones_like", "full_like", "empty_like"):
        return 0, written
    return sum(_bytes(tensors_in(values.get(operand))) for operand in node.all_input_nodes), written


# ---------------------------------------------------------------------------------------------------------
# Operations


def _count(node: fx.Node, values: Mapping[fx.Node, Any]) -> NodeWork:
    operation = _operation(node)
    if not _reads_values(node) or _is_view(node, values):
        return NodeWork(node.name, operation, 0, 0, 0, 0)
    arguments = _arguments(node, values)
    matrix = matrix_operations(operation, arguments, values.get(node))
    convolution = operation in CONVOLUTIONS
    biased = (convolution or operation == "linear") and arguments.get("bias") is not None
    scalar = _scalar_operations(operation, arguments, values.get(node), is_contraction=bool(matrix))
    read, written = _node_bytes(node, values)
    return NodeWork(
        name=node.name,
        operation=operation,
        read_bytes=read,
        written_bytes=written,
        matrix_operations=matrix or 0,
        scalar_operations=scalar,
        convolution=convolution,
        transposed_convolution=convolution and is_transposed(operation, arguments),
        has_bias=biased,
        rows=_normalised_rows(operation, arguments),
    )


def _normalised_rows(operation: str, arguments: Mapping[str, Any]) -> int:
    """Rows of a normalisation: what lies outside the listed dims, or the groups of each image."""
    source = arguments.get("input")
    if not isinstance(source, torch.Tensor):
        return 0
    sizes = sizes_of(source)
    if operation in ("layer_norm", "rms_norm"):
        return math.prod(sizes[: len(sizes) - len(arguments["normalized_shape"])])
    return sizes[0] * size_hint(arguments["num_groups"]) if operation == "group_norm" else 0


def _arguments(node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[str, Any]:
    """Schema name -> value (fake tensors for nodes), defaults filled in."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(target._schema.arguments):
        if position < len(node.args):
            given = node.args[position]
        else:
            given = node.kwargs.get(argument.name, argument.default_value if argument.has_default_value() else None)
        arguments[argument.name] = fx.node.map_arg(given, lambda operand: values.get(operand))
    return arguments


def _scalar_operations(operation: str, arguments: Mapping[str, Any], result: Any, *, is_contraction: bool) -> int:
    results = tensors_in(result)
    produced = elements(results[0]) if results else 0
    operands = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    if operation in REDUCTION_WEIGHTS and operands and not (operation in ("max", "min") and "other" in arguments):
        return REDUCTION_WEIGHTS[operation] * elements(operands[0])
    if operation == "scaled_dot_product_attention":
        pairs = attention_pairs(arguments)
        return pairs * (REDUCTION_WEIGHTS["softmax"] + 1)
    if operation in _WINDOWS:
        return produced * _window(arguments, len(sizes_of(results[0])) - 2)
    if operation in _COPIES:
        return 0
    if is_contraction and operation not in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        has_addend = arguments.get("bias") is not None or operation in ("addmm", "baddbmm", "addmv", "addbmm")
        return produced if has_addend else 0
    if operation == "pow" and arguments.get("exponent") in _SMALL_POWERS:
        return produced * _SMALL_POWERS[arguments["exponent"]]
    return produced * POINTWISE_WEIGHTS.get(operation, 1)


def _window(arguments: Mapping[str, Any], dims: int) -> int:
    sizes = per_dim(arguments["kernel_size"], max(dims, 1))
    return math.prod(sizes)
