"""The emitted file: imports, kernels, wrappers, the module, in that order.

The module keeps the reference's own forward pass as `reference_forward`, and takes it on CPU tensors, in
training mode, when gradients are wanted, and where the plan's assumptions end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as torch_fx
from torch._subclasses.fake_tensor import FakeTensor

from tilewright.errors import TilewrightError
from tilewright.graph.constants import is_written_down
from tilewright.graph.graph import Graph, fixed_size
from tilewright.graph.nodes import argument
from tilewright.kernels.conv_plan import FEW_CHANNELS, MAX_KEPT_CHANNELS, ConvPlan
from tilewright.kernels.depthwise_plan import DepthwisePlan
from tilewright.kernels.emit_collapse import emit_collapse
from tilewright.kernels.emit_conv import emit_conv
from tilewright.kernels.emit_conv_rows import emit_conv_rows
from tilewright.kernels.emit_depthwise import emit_depthwise
from tilewright.kernels.emit_gemm import emit_gemm
from tilewright.kernels.emit_pool import emit_pool
from tilewright.kernels.emit_region import emit_region
from tilewright.kernels.helpers import helper_source
from tilewright.kernels.layout import MemoryFormat
from tilewright.kernels.native import laid_out_text, native_text, operation_name
from tilewright.kernels.plan import EmittedKernel, FusedPlan
from tilewright.kernels.planner import CollapseStep, ConvStep, FusedStep, GemmStep, ModulePlan, NativeStep
from tilewright.kernels.pool_plan import PoolPlan
from tilewright.kernels.prepared import PreparedWriter
from tilewright.kernels.region import narrowed_dim
from tilewright.kernels.row_kernels import emit_rows
from tilewright.kernels.row_plan import RowPlan
from tilewright.kernels.text import Lines, Names, shape_text


class EmissionError(TilewrightError):
    """A planned module cannot be written as one file; the message says why."""


@dataclass(frozen=True)
class ForwardText:
    """The planned forward pass as text, for a shell to put into a class.

    Attributes:
        kernels: source of helpers and kernels.
        wrappers: source of the wrappers.
        conditions: expressions that must hold for the kernels to run.
        body: statements of the planned forward pass, unindented; the last one returns.
        uses_functional: the body calls torch.nn.functional as F.
        scratch: declared scratch tensors.
        spares: kernels that return at once unless a guard fails.
    """

    kernels: str
    wrappers: str
    conditions: tuple[str, ...]
    body: str
    uses_functional: bool
    scratch: tuple[str, ...]
    spares: tuple[str, ...]


#: Triton's own forms cost the host a microsecond or two each time.
_HOST_MATHS = {
    "cdiv": '''
def cdiv(a, b):
    """a / b, rounded up."""
    return -(-a // b)
''',
    "next_power_of_2": '''
def next_power_of_2(n):
    """The smallest power of two from n on."""
    return 1 << max(0, n - 1).bit_length()
''',
}


def _with_host_maths(source: str) -> str:
    """The host's code with plain arithmetic in the place of Triton's."""
    used = [text.strip("\n") for name, text in _HOST_MATHS.items() if f"triton.{name}(" in source]
    for name in _HOST_MATHS:
        source = source.replace(f"triton.{name}(", f"{name}(")
    return "\n\n\n".join([*used, source])


def attribute_path(path: str, root: str = "self") -> str:
    """`net.0.weight` as an expression: `self.net[0].weight`; children of a root that is a sequence, by their names."""
    first, *rest = path.split(".")
    text = f'{root}._modules["{first}"]' if first.isdigit() else f"{root}.{first}"
    for part in rest:
        text += f"[{part}]" if part.isdigit() else f".{part}"
    return text


def write_forward(plan: ModulePlan, inputs: Sequence[str], scalar_root: str = "self") -> ForwardText:
    """Text of the planned forward pass.

    Args:
        plan: the plan.
        inputs: the forward pass's parameter names, one for each input of the graph.
        scalar_root: where float attributes of the root module are read.
    """
    return _ForwardWriter(plan, inputs, scalar_root).write()


def emit_step(step: FusedStep | ConvStep | GemmStep | CollapseStep, graph: Graph) -> EmittedKernel:
    """Source of one step's kernel(s) and wrapper."""
    if isinstance(step, GemmStep):
        return emit_gemm(step.plan, graph)
    if isinstance(step, CollapseStep):
        return emit_collapse(step.plan, graph)
    if isinstance(step, FusedStep):
        if isinstance(step.plan, RowPlan):
            return emit_rows(step.plan, graph)
        if isinstance(step.plan, DepthwisePlan):
            return emit_depthwise(step.plan, graph)
        return emit_pool(step.plan, graph) if isinstance(step.plan, PoolPlan) else emit_region(step.plan, graph)
    return emit_conv_rows(step.plan, graph) if step.plan.tiles.rows else emit_conv(step.plan, graph)


class _ForwardWriter:
    def __init__(self, plan: ModulePlan, inputs: Sequence[str], scalar_root: str) -> None:
        self.plan = plan
        self.graph: Graph = plan.graph
        self.scalar_root = scalar_root
        self.names = Names({"self", "torch", "F", "nn", "tl", "triton", *inputs})
        self.text: dict[torch_fx.Node, str] = {}
        self.contiguous: set[torch_fx.Node] = set()
        self.emitted: list[EmittedKernel] = []
        self.scratch: list[str] = []
        self.native_nodes = {step.node for step in plan.steps if isinstance(step, NativeStep)}
        self.lines = Lines()
        self._bind_placeholders(inputs)
        paths = self.text.__getitem__
        self.prepared = PreparedWriter(self.graph, plan.prepared, paths, self._linked, self.names, self._constant)

    def _bind_placeholders(self, inputs: Sequence[str]) -> None:
        names = self._input_texts(inputs)
        state = self.graph.state_names()
        for node in self.graph.fx.nodes:
            if node.op != "placeholder":
                continue
            if node.name in names:
                self.text[node] = names[node.name]
                self.contiguous.add(node)
            elif node.name in state:
                self.text[node] = attribute_path(state[node.name])
            elif node.name in self.graph.constants:
                self.text[node] = self._constant_shape(node)

    def _input_texts(self, inputs: Sequence[str]) -> dict[str, str]:
        """Placeholder -> its text: one name for each, or where it lies in a parameter of forward's."""
        if len(inputs) == len(self.graph.inputs):
            return dict(zip(self.graph.inputs, inputs, strict=True))
        tensors = [argument for argument in self.graph.arguments if argument.placeholder is not None]
        return {a.placeholder: f"{inputs[a.position]}{a.path}" for a in tensors if a.placeholder is not None}

    def _constant(self, node: torch_fx.Node, argument: Callable[[str], str]) -> str:
        """A constant where it is prepared: an attribute of the module, or written down once more.

        Args:
            node: its placeholder.
            argument: gives the name under which an expression of the forward pass is known there.
        """
        device = argument(self._device())
        if is_written_down(node.name, self.graph):
            return _constant_text(self.graph.constants[node.name], device)
        held = attribute_path(self.graph.constant_names[node.name], self.scalar_root)
        return f"{argument(held)}.to({device})"

    def _constant_shape(self, node: torch_fx.Node) -> str:
        """A constant where only its sizes are asked for."""
        if is_written_down(node.name, self.graph):
            return f"torch.empty({shape_text(map(str, self.graph.constants[node.name].shape))}, device='meta')"
        return attribute_path(self.graph.constant_names[node.name], self.scalar_root)

    def _is_constant(self, node: torch_fx.Node) -> bool:
        return node.op == "placeholder" and node.name in self.graph.constants

    def _device(self) -> str:
        """The device that the call is made on: an input's, else a parameter's."""
        given = {leaf.placeholder for leaf in self.graph.arguments} - {None}
        tensor = next((text for node, text in self.text.items() if node.name in given), None)
        if tensor is not None:
            return f"{tensor}.device"
        state = next(iter(self.graph.state_names().values()), None)
        if state is None:
            raise EmissionError("the forward pass makes tensors, and has no input that says on which device")
        return f"{attribute_path(state)}.device"

    def _linked(self, value: float) -> str | None:
        link = self.graph.linked.get(value)
        return None if link is None else attribute_path(link.path, self.scalar_root)

    def _text_of(self, item: Any) -> str:
        if isinstance(item, torch_fx.Node):
            known = item in self.plan.prepared or self._is_constant(item)
            return self.prepared.value(item) if known else self.text[item]
        if isinstance(item, list | tuple):
            return f"[{', '.join(self._text_of(part) for part in item)}]"
        if type(item) is float and (linked := self._linked(item)) is not None:
            return linked
        if isinstance(item, float) and not math.isfinite(item):
            return f'float("{item}")'
        if isinstance(item, torch.device):
            return self._device()
        return str(item) if isinstance(item, torch.dtype | torch.memory_format | torch.layout) else repr(item)

    def write(self) -> ForwardText:
        for step in self.plan.steps:
            if not isinstance(step, NativeStep):
                self._fused(step)
            else:
                self._native(step.node)
        self._return()
        prepare = self.prepared.call()
        body = f"{prepare}\n{self.lines}" if prepare else str(self.lines)
        shared = dict.fromkeys(text for kernel in self.emitted for text in kernel.shared_kernels)
        kernels = [*shared, *(kernel.kernels for kernel in self.emitted)]
        wrappers = dict.fromkeys(text for kernel in self.emitted for text in kernel.shared_wrappers)
        own = [kernel.wrapper for kernel in self.emitted] + ([self.prepared.source()] if prepare else [])
        used = set().union(*(kernel.helpers for kernel in self.emitted))
        helpers = helper_source(used, approximate=self.plan.approximate)
        return ForwardText(
            "\n\n\n".join([*([helpers] if helpers else []), *kernels]),
            _with_host_maths("\n\n\n".join([*wrappers, *own])),
            tuple(self._conditions()),
            body,
            any("F." in text for text in (body, *own)),
            (*self.scratch, *self.prepared.scratch()),
            tuple(name for kernel in self.emitted for name in kernel.spares),
        )

    def _fused(self, step: FusedStep | ConvStep | GemmStep | CollapseStep) -> None:
        kernel = emit_step(step, self.graph)
        self.emitted.append(kernel)
        self.scratch += kernel.scratch
        packs = dict(kernel.packs)
        nodes = [self.graph.node(name) for name in kernel.operands]
        texts = [
            self.prepared.packed(packs[position], node)
            if position in packs
            else self._operand(node, strided=position in kernel.strided, by_format=isinstance(step, FusedStep))
            for position, node in enumerate(nodes)
        ]
        arguments = list(texts)
        arguments += [self._linked(value) or repr(value) for value in kernel.scalars.values()]
        plain = [text.removesuffix(".contiguous()") for text in texts]  # they are asked for sizes only
        arguments += [keyword.format(*plain) for keyword in kernel.keywords]
        results = step.plan.outputs if isinstance(step, GemmStep) else (step.node,)
        self._assign_all(results, f"{kernel.wrapper_name}({', '.join(arguments)})")
        plan = step.plan
        if isinstance(plan, FusedPlan | RowPlan) and plan.output_format is MemoryFormat.CHANNELS_LAST:
            shape = " * ".join(plan.axes.part_names)
            self.scratch.append(f"{self.text[step.node]}: operand repacked channels-last, 4 * {shape} bytes")
        self.contiguous |= set(results)
        for result in results:
            readers = [user for user in result.users if user.op == "call_function"]
            if readers and result not in self.plan.formats:
                how = "native " if readers[0] in self.native_nodes else ""
                self.scratch.append(f"{self.text[result]}: stored once, operand of {how}{operation_name(readers[0])}")

    def _operand(self, node: torch_fx.Node, *, strided: bool = False, by_format: bool = True) -> str:
        """An operand as a kernel expects it: row-major, unless it reads strides, or formats as they were planned."""
        if node in self.plan.prepared or self._is_constant(node):
            return self.prepared.value(node)
        planned = by_format and self.plan.formats.get(node) is MemoryFormat.CHANNELS_LAST
        known = strided or node in self.contiguous or planned
        return self.text[node] if known else f"{self.text[node]}.contiguous()"

    def _native(self, node: torch_fx.Node) -> None:
        text = native_text(node, self._slice_text(node), self.plan.formats, self._weight_in)
        if isinstance(node.meta.get("val"), torch.Tensor | tuple | list):
            self._assign(node, text)
        else:
            self.text[node] = f"({text})" if " " in text else text

    def _weight_in(self, weight: torch_fx.Node, form: str) -> str:
        """A convolution's weight in a memory format: copied once, where it depends on parameters alone."""
        if weight in self.plan.prepared or weight.name in self.graph.parameters:
            return self.prepared.laid_out(weight, form)
        return laid_out_text(self._text_of(weight), form)

    def _slice_text(self, node: torch_fx.Node) -> Callable[[Any], str]:
        """Text of arguments; a tensor that is sliced lies row-major, as kernels that read the slice expect."""
        source = node.args[0] if node.args else None
        sliced = any(narrowed_dim(part) is not None for part in (node, *node.users))
        if not sliced or not isinstance(source, torch_fx.Node) or not isinstance(source.meta.get("val"), torch.Tensor):
            return self._text_of
        return lambda item: self._operand(item) if item is source else self._text_of(item)

    def _assign_all(self, nodes: Sequence[torch_fx.Node], text: str) -> None:
        names = [self.names.unique(node.name) for node in nodes]
        self.lines.add(f"{', '.join(names)} = {text}")
        self.text.update(zip(nodes, names, strict=True))

    def _assign(self, node: torch_fx.Node, text: str) -> None:
        name = self.names.unique(node.name)
        self.lines.add(f"{name} = {text}")
        self.text[node] = name

    def _return(self) -> None:
        texts = [self._returned(leaf) for leaf in self.graph.returned]
        structure = self.graph.structure
        if structure is None:
            self.lines.add(f"return {texts[0] if self.graph.single_output else shape_text(texts)}")
        else:
            self.lines.add(f"return {structure.text(iter(texts))}")

    def _returned(self, leaf: Any) -> str:
        if not isinstance(leaf, torch_fx.Node) or leaf not in self.text:
            return self._text_of(leaf)
        if leaf in self.plan.prepared or self._is_constant(leaf):
            return f"{self.prepared.value(leaf)}.clone()"  # the caller may change what it is given
        plain = self.plan.formats.get(leaf) is MemoryFormat.CHANNELS_LAST
        return f"{self.text[leaf]}.contiguous()" if plain else self.text[leaf]

    # -- conditions under which the kernels may run ---------------------------------------------------------

    def _conditions(self) -> list[str]:
        conditions: list[str] = []
        for name in self.graph.inputs:
            node = self.graph.node(name)
            value, text = node.meta.get("val"), self.text[node]
            if isinstance(value, torch.Tensor):
                conditions.append(f"{text}.dtype == {value.dtype}")
                conditions.append(f"{text}.dim() == {value.dim()}")
                conditions += self._static_sizes(node)
        for step in self.plan.steps:
            if not isinstance(step, NativeStep):
                conditions += self._shape_conditions(step)
            if isinstance(step, ConvStep):
                conditions += self._kept_channels(step.plan)
        for kernel in self.emitted:
            texts = [self.text.get(self.graph.node(name), "") for name in kernel.operands]
            named = {node.name: text for node, text in self.text.items()}
            conditions += [condition.format(*texts, **named) for condition in kernel.conditions]
        return list(dict.fromkeys(conditions))

    def _static_sizes(self, node: torch_fx.Node) -> list[str]:
        """Sizes that the capture fixed: those of a weight that meets them are compared with it."""
        conditions = []
        for dim, captured in enumerate(node.meta["val"].shape):
            size = fixed_size(captured)
            if size is None:
                continue
            partner = next((found for user in node.users if (found := self._weight_dim(user, node, dim, size))), None)
            conditions.append(f"{self.text[node]}.shape[{dim}] == {partner or size}")
        return conditions

    def _kept_channels(self, plan: ConvPlan) -> list[str]:
        """A strip of rows keeps few weights, a tile few channels, and taps are joined of few: others are PyTorch's."""
        weight = self._parameter_of(plan.anchor.args[1])
        if weight is None:
            return []
        transposed, groups = plan.shape.transposed, plan.shape.groups
        given, kept = (0, 1) if transposed else (1, 0)
        most = MAX_KEPT_CHANNELS * (groups if transposed else 1)
        bounds = [(given, most)] if plan.tiles.rows else [(given, FEW_CHANNELS)] if plan.joins_taps else []
        if plan.whole_channels or (plan.tiles.rows and plan.reduces_channels):
            bounds.append((kept, MAX_KEPT_CHANNELS))
        return [f"{self.text[weight]}.shape[{dim}] <= {bound}" for dim, bound in bounds]

    def _parameter_of(self, weight: Any) -> torch_fx.Node | None:
        """The parameter that a weight is, or was computed of when the parameters were prepared."""
        while weight in self.plan.prepared and isinstance(weight.args[0], torch_fx.Node):
            weight = weight.args[0]
        return weight if isinstance(weight, torch_fx.Node) and weight.name in self.graph.parameters else None

    def _weight_dim(self, user: torch_fx.Node, node: torch_fx.Node, dim: int, size: int) -> str | None:
        weight = self._parameter_of(argument(user, 1))
        transposed = "conv_transpose" in str(user.target)
        channels = 1 if "conv" in str(user.target) else node.meta["val"].dim() - 1
        if weight is None or dim != channels:
            return None
        position = 0 if transposed else 1
        shape = weight.meta["val"].shape
        named = "conv" in str(user.target) or "linear" in str(user.target)
        if not named or len(shape) <= position or shape[position] != size:
            return None
        return f"{self.text[weight]}.shape[{position}]"

    def _shape_conditions(self, step: FusedStep | ConvStep | GemmStep | CollapseStep) -> list[str]:
        """Sizes that a kernel reads from one tensor and uses on another must agree."""
        region = step.plan.region
        conditions = []
        for axis in range(len(region.axis_levels)):
            places = [
                (operand.node, dim) for operand in region.operands for dim, of in enumerate(operand.map) if of == axis
            ]
            given = [(node, dim) for node, dim in places if node.op == "placeholder"]
            known = [place for place in given if place[0].name not in self.graph.inputs]
            inputs = [place for place in given if place[0].name in self.graph.inputs]
            for place in inputs:
                anchor = (known or inputs)[0]
                if place != anchor:
                    conditions.append(f"{self._size(place)} == {self._size(anchor)}")
        return conditions + self._fixed_sizes(region.operands)

    def _fixed_sizes(self, operands: Sequence[Any]) -> list[str]:
        """Dims of 1 in an input are broadcast by the kernel, and must be 1 again."""
        return [
            f"{self.text[operand.node]}.shape[{dim}] == 1"
            for operand in operands
            if operand.node.name in self.graph.inputs
            for dim, axis in enumerate(operand.map)
            if axis is None
        ]

    def _size(self, place: tuple[torch_fx.Node, int]) -> str:
        if self._is_constant(place[0]) and is_written_down(place[0].name, self.graph):
            return str(int(place[0].meta["val"].shape[place[1]]))
        return f"{self.text[place[0]]}.shape[{place[1]}]"


#: Constants of more elements are not written out.
_MOST_WRITTEN = 1024


def _constant_text(value: torch.Tensor, device: str) -> str:
    if value.numel() > _MOST_WRITTEN or value.is_meta or isinstance(value, FakeTensor):
        raise EmissionError(
            f"the forward pass makes a constant tensor of {value.numel()} elements",
            hint="make it in the constructor, with register_buffer",
        )
    return f"torch.tensor({_listed(value.tolist())}, dtype={value.dtype}, device={device})"


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_listed, value))}]"
    return f'float("{value}")' if isinstance(value, float) and not math.isfinite(value) else repr(value)
