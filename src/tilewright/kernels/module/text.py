"""The emitted file: imports, kernels, wrappers, the module, in that order.

The module takes the reference's own forward pass on CPU tensors, when gradients are wanted, and where the plan's
assumptions end: about its arguments, their sizes, and what it reads of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx as torch_fx
from torch._subclasses.fake_tensor import FakeTensor

from tilewright.errors import TilewrightError
from tilewright.graph.arguments import LEAF, InputArgument, is_flat_tuple
from tilewright.graph.graph import Graph, fixed_size
from tilewright.graph.nodes import argument
from tilewright.graph.parameters import is_of_parameters
from tilewright.kernels.code.text import Lines, Names
from tilewright.kernels.collapse.emit import emit_collapse
from tilewright.kernels.conv.emit import emit_conv
from tilewright.kernels.conv.plan import FEW_CHANNELS, MAX_KEPT_CHANNELS, ConvPlan
from tilewright.kernels.conv.strips import emit_conv_rows
from tilewright.kernels.depthwise.emit import emit_depthwise
from tilewright.kernels.depthwise.plan import DepthwisePlan
from tilewright.kernels.fused.emit import emit_region
from tilewright.kernels.gemm.emit import emit_gemm
from tilewright.kernels.module.call import Layout, Signature, argument_conditions, layout_of
from tilewright.kernels.native import laid_out_text, makes_values, native_text, operation_name
from tilewright.kernels.ops.helpers import helper_source
from tilewright.kernels.plan import EmittedKernel, FusedPlan
from tilewright.kernels.pool.emit import emit_pool
from tilewright.kernels.pool.plan import PoolPlan
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.region import narrowed_dim
from tilewright.kernels.rows.kernels import emit_rows
from tilewright.kernels.rows.plan import RowPlan
from tilewright.kernels.steps import CollapseStep, ConvStep, FusedStep, GemmStep, ModulePlan, NativeStep


class EmissionError(TilewrightError):
    """A planned module cannot be written as one file; the message says why."""


@dataclass(frozen=True)
class ForwardText:
    """The planned forward pass as text, for a shell to put into a class.

    Attributes:
        kernels: source of helpers and kernels.
        wrappers: source of the wrappers.
        signature: how the forward pass is called.
        given: names of the parameters that the captured call gave, or left at their defaults.
        arguments: expressions that must hold of the call's arguments for the kernels to run, sizes apart.
        device: expression of the number of the device that all tensors must lie on.
        conditions: expressions that must hold of sizes; they may use the names of `state`.
        state: attribute path -> the name under which the forward pass has the tensor or float.
        numbers: the paths among them of floats.
        reads: what the forward pass read of the module when it was captured (see `Graph.reads`).
        body: statements of the planned forward pass, unindented; the last one returns.
        whole: name and arguments of a wrapper that holds the body, where its launches are replayed together.
        uses_functional: the body calls torch.nn.functional as F.
        scratch: declared scratch tensors.
        spares: kernels that return at once unless a guard fails.
    """

    kernels: str
    wrappers: str
    signature: Signature
    given: frozenset[str]
    arguments: tuple[str, ...]
    device: str
    conditions: tuple[str, ...]
    state: Mapping[str, str]
    numbers: frozenset[str]
    reads: Mapping[str, Mapping[str, Any]] = field(compare=False)
    body: str
    whole: tuple[str, tuple[str, ...]] | None
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


#: A dim of a tensor.
Place = tuple[torch_fx.Node, int]


def _with_host_maths(source: str) -> str:
    """The host's code with plain arithmetic in the place of Triton's."""
    used = [text.strip("\n") for name, text in _HOST_MATHS.items() if f"triton.{name}(" in source]
    for name in _HOST_MATHS:
        source = source.replace(f"triton.{name}(", f"{name}(")
    return "\n\n\n".join([*used, source])


def write_forward(plan: ModulePlan) -> ForwardText:
    """Text of the planned forward pass."""
    return _ForwardWriter(plan).write()


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
    def __init__(self, plan: ModulePlan) -> None:
        self.plan = plan
        self.graph: Graph = plan.graph
        self.arguments = plan.graph.arguments
        self.signature = Signature.of(plan.graph.signature)
        self.names = Names({"self", "state", "torch", "F", "nn", "tl", "triton", *self.signature.names})
        self.state: dict[str, str] = {}
        self.constants: dict[str, str] = {}  # name -> its text on a device
        self.numbers: set[str] = set()
        self.text: dict[torch_fx.Node, str] = {}
        self.given_as: dict[torch_fx.Node, str] = {}
        self.contiguous: set[torch_fx.Node] = set()
        self.emitted: list[EmittedKernel] = []
        self.scratch: list[str] = []
        self.native_nodes = {step.node for step in plan.steps if isinstance(step, NativeStep)}
        self.lines = Lines()
        self._bind_placeholders()

    def _bind_placeholders(self) -> None:
        given = {argument.placeholder: argument.name for argument in self.arguments if argument.placeholder is not None}
        for node in self.graph.fx.nodes:
            if node.op != "placeholder":
                continue
            if node.name in given:
                self._bind_input(node, given[node.name])
            elif node.users and (path := self._path_of(node)) is not None:
                self.text[node] = self._state(path)
            elif node.users and node.name in self.graph.constants:
                self.text[node] = self._constant(node)

    def _constant(self, node: torch_fx.Node) -> str:
        """The name of a constant that the forward pass writes down."""
        name = self.names.unique("constant")
        self.constants[name] = _constant_text(self.graph.constants[node.name], "device")
        self.contiguous.add(node)
        return name

    def _is_constant(self, node: torch_fx.Node) -> bool:
        return node.op == "placeholder" and node.name in self.graph.constants and self._path_of(node) is None

    def _device(self) -> str:
        """The device that the call is made on."""
        return f"{self._first()}.device"

    def _first(self) -> str:
        """The first tensor among the arguments."""
        first = next((argument.name for argument in self.arguments if argument.placeholder is not None), None)
        if first is None:
            raise EmissionError("the forward pass takes no tensor")
        return first

    def _bind_input(self, node: torch_fx.Node, text: str) -> None:
        """An input as the kernels take it: packed, as the guard asks, or made so where the example was not."""
        self.text[node] = self.given_as[node] = text
        self.contiguous.add(node)
        if layout_of(node.meta["val"]) is not Layout.PACKED and node.users:
            self.text[node] = self.names.unique(f"{node.name}_packed")
            self.lines.add(f"{self.text[node]} = {text}.contiguous()")

    def _path_of(self, node: torch_fx.Node) -> str | None:
        """Path of the attribute that a placeholder is; None for a constant of the forward pass."""
        path = self.graph.state_names().get(node.name, self.graph.constant_names.get(node.name))
        owner, _, name = (path or "").rpartition(".")
        is_state = node.name in self.graph.state_names() or name in self.graph.reads.get(owner, {})
        return path if is_state else None

    def _state(self, path: str) -> str:
        """The name under which the forward pass has an attribute."""
        if path not in self.state:
            self.state[path] = self.names.unique(path)
        return self.state[path]

    def _linked(self, value: float) -> str | None:
        link = self.graph.linked.get(value)
        if link is None:
            return None
        if link.is_argument:
            return link.path
        self.numbers.add(link.path)
        return self._state(link.path)

    def _text_of(self, item: Any) -> str:
        if isinstance(item, torch_fx.Node):
            return self.text[item]
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
        names = ", ".join(self.constants) + ("," if len(self.constants) == 1 else "")
        body = f"{names} = constants_on({self._device()})\n{self.lines}" if self.constants else str(self.lines)
        shared = dict.fromkeys(text for kernel in self.emitted for text in kernel.shared_kernels)
        kernels = [*shared, *(kernel.kernels for kernel in self.emitted)]
        wrappers = dict.fromkeys(text for kernel in self.emitted for text in kernel.shared_wrappers)
        own = [*self._constants_source(), *(kernel.wrapper for kernel in self.emitted)]
        used = set().union(*(kernel.helpers for kernel in self.emitted))
        helpers = helper_source(used, approximate=self.plan.approximate)
        return ForwardText(
            "\n\n\n".join([*([helpers] if helpers else []), *kernels]),
            _with_host_maths("\n\n\n".join([*wrappers, *own])),
            self.signature,
            frozenset(argument.parameter for argument in self.arguments),
            tuple(argument_conditions(self.graph)),
            f"{self._first()}.get_device()",
            tuple(self._conditions()),
            self.state,
            frozenset(self.numbers),
            self.graph.reads,
            body,
            self._whole(),
            any("F." in text for text in (body, *own)),
            tuple(self.scratch),
            tuple(name for kernel in self.emitted for name in kernel.spares),
        )

    def _whole(self) -> tuple[str, tuple[str, ...]] | None:
        """The wrapper that holds the body: for several launches with nothing of PyTorch's own between them."""
        structure = self.graph.structure
        computed = all(isinstance(leaf, torch_fx.Node) and leaf.op != "placeholder" for leaf in self.graph.returned)
        is_flat = structure is not None and (structure.kind == LEAF or is_flat_tuple(structure))
        taken = [one for one in self.arguments if one.placeholder is not None or self._is_linked(one)]
        is_plain = all(not one.path for one in taken)
        alone = self.constants or any(makes_values(node) for node in self.native_nodes)
        if len(self.emitted) < 2 or alone or not (computed and is_flat and is_plain):
            return None
        taken.sort(key=lambda one: one.placeholder is None)  # tensors first: the first one says which device it is
        return self.names.unique("launch_all"), tuple(one.name for one in taken)

    def _is_linked(self, argument: InputArgument) -> bool:
        return any(link.is_argument and link.path == argument.name for link in self.graph.linked.values())

    def _constants_source(self) -> list[str]:
        """The function that makes the forward pass's constants; no function where it has none."""
        if not self.constants:
            return []
        lines = Lines()
        lines.add("_CONSTANTS = {}")
        lines.add()
        lines.add()
        lines.open("def constants_on(device):")
        lines.add('"""The constants of the forward pass, made once on each device."""')
        lines.open("if device not in _CONSTANTS:")
        lines.open("_CONSTANTS[device] = (")
        for text in self.constants.values():
            lines.add(f"{text},")
        lines.close()
        lines.add(")")
        lines.close()
        lines.add("return _CONSTANTS[device]")
        return [str(lines)]

    def _fused(self, step: FusedStep | ConvStep | GemmStep | CollapseStep) -> None:
        kernel = emit_step(step, self.graph)
        self.emitted.append(kernel)
        self.scratch += kernel.scratch
        nodes = [self.graph.node(name) for name in kernel.operands]
        arguments = [
            self._operand(node, strided=position in kernel.strided, by_format=isinstance(step, FusedStep))
            for position, node in enumerate(nodes)
        ]
        arguments += [self._linked(value) or repr(value) for value in kernel.scalars.values()]
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
        """A convolution's weight in a memory format; one that belongs to the module is left to PyTorch as it is."""
        if is_of_parameters(weight) or weight.name in self.graph.parameters:
            return self._text_of(weight)
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
        assert self.graph.structure is not None
        texts = iter([self._returned(leaf) for leaf in self.graph.returned])
        self.lines.add(f"return {self.graph.structure.text(texts)}")

    def _returned(self, leaf: Any) -> str:
        if not isinstance(leaf, torch_fx.Node):
            return self._text_of(leaf)
        if self._is_constant(leaf):
            return f"{self.text[leaf]}.clone()"  # the caller may change what it is given
        if leaf.op == "placeholder":
            return next((one.name for one in self.arguments if one.placeholder == leaf.name), self.text.get(leaf, ""))
        plain = self.plan.formats.get(leaf) is MemoryFormat.CHANNELS_LAST
        return f"{self.text[leaf]}.contiguous()" if plain else self.text[leaf]

    # -- conditions under which the kernels may run ---------------------------------------------------------

    def _conditions(self) -> list[str]:
        self.text.update(self.given_as)  # they are asked before an input is packed
        texts = {node.name: text for node, text in self.text.items()}
        ties = [tie for step in self.plan.steps if not isinstance(step, NativeStep) for tie in self._ties(step)]
        conditions = [guard.format(**texts) for guard in self.graph.guards]
        links = [link for link in self.graph.linked.values() if link.is_argument or link.path in self.numbers]
        for link in links:
            name = link.path if link.is_argument else self.state[link.path]
            conditions += [asked.format(name) for asked in link.asked]
        for node in self._given():
            conditions += self._static_sizes(node, {place: anchor for place, anchor in ties if place[0] is node})
        for step in self.plan.steps:
            if not isinstance(step, NativeStep):
                conditions += self._fixed_sizes(step.plan.region.operands)
            if isinstance(step, ConvStep):
                conditions += self._kept_channels(step.plan)
        for kernel in self.emitted:
            operands = [self.text.get(self.graph.node(name), "") for name in kernel.operands]
            conditions += [condition.format(*operands, **texts) for condition in kernel.conditions]
        return list(dict.fromkeys(conditions))

    def _given(self) -> list[torch_fx.Node]:
        """The call's tensors."""
        names = [argument.placeholder for argument in self.arguments if argument.placeholder is not None]
        return [self.graph.node(name) for name in names]

    def _static_sizes(self, node: torch_fx.Node, ties: Mapping[Place, Place]) -> list[str]:
        """Sizes that the capture fixed: those of a weight that meets them are compared with it."""
        conditions = []
        for dim, captured in enumerate(node.meta["val"].shape):
            size = fixed_size(captured)
            if size is None:
                continue
            partner = next((found for user in node.users if (found := self._weight_dim(user, node, dim, size))), None)
            if partner is None and (node, dim) in ties:
                partner = self._size(ties[node, dim])
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
        """The parameter that a weight is, or is computed of."""
        while (
            isinstance(weight, torch_fx.Node) and is_of_parameters(weight) and isinstance(weight.args[0], torch_fx.Node)
        ):
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

    def _ties(self, step: FusedStep | ConvStep | GemmStep | CollapseStep) -> Iterator[tuple[Place, Place]]:
        """Sizes of inputs that a kernel reads from a parameter, each with the parameter's."""
        region = step.plan.region
        for axis in range(len(region.axis_levels)):
            places = [
                (operand.node, dim) for operand in region.operands for dim, of in enumerate(operand.map) if of == axis
            ]
            given = [(node, dim) for node, dim in places if node.op == "placeholder" and node in self.text]
            known = [place for place in given if place[0].name not in self.graph.inputs]
            yield from ((place, known[0]) for place in given if known and place[0].name in self.graph.inputs)

    def _fixed_sizes(self, operands: Sequence[Any]) -> list[str]:
        """Dims of 1 in an input are broadcast by the kernel, and must be 1 again."""
        return [
            f"{self.text[operand.node]}.shape[{dim}] == 1"
            for operand in operands
            if operand.node.name in self.graph.inputs
            for dim, axis in enumerate(operand.map)
            if axis is None
        ]

    def _size(self, place: Place) -> str:
        if self._is_constant(place[0]):
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
