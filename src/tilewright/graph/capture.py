"""Capture with `torch.export`: a module and example inputs in, a `Graph` out.

Sizes are captured symbolically wherever the module accepts others, so that what is emitted works for any
batch and spatial size. Floats that are attributes of the module, or arguments, are captured as links to those (see
`tilewright.graph.linked`), so that emitted code reads them instead of a literal. What else the forward pass reads of
the module is noted beside the graph (see `tilewright.graph.reads`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from tilewright.errors import CaptureError
from tilewright.graph.arguments import input_arguments, output_structure
from tilewright.graph.capture_errors import capture_error, check_call, quiet
from tilewright.graph.decompositions import functional
from tilewright.graph.graph import Graph, LinkedScalar
from tilewright.graph.guards import size_guards
from tilewright.graph.host import host_twin, on_host
from tilewright.graph.linked import Links, linked_attributes, plain_numbers
from tilewright.graph.reads import ReadLog, recorded_reads
from tilewright.graph.size_one import size_one_guards


def capture(module: nn.Module, inputs: Sequence[Any], *, dynamic: bool = True) -> Graph:
    """Capture `module` in eval mode, as called with `inputs`.

    Args:
        module: the reference; it is not changed.
        inputs: example inputs, tensors of any device or other values.
        dynamic: capture sizes symbolically where the module accepts others.

    Raises:
        InputMismatchError: the module raises on these inputs.
        CaptureError: `torch.export` cannot capture it; the message names the operation and the line.
    """
    links = Links()
    given = tuple(inputs)
    with _in_eval_mode(module), on_host(module), recorded_reads(module, links.argument) as log:
        with linked_attributes(module, links):
            program, was_dynamic = _export(module, _distinct(given), dynamic)
        if log.changed:
            raise CaptureError(
                f"the reference cannot be captured: its forward pass sets {', '.join(sorted(log.changed))}",
                hint="modules whose eval-mode forward changes attributes are not supported",
            )
        linked = _settle_links(program.graph, links, log)
        graph = _graph_of(program, module, given, linked, was_dynamic)
        reads = log.read()
    with _in_eval_mode(module):
        guards = (*graph.guards, *size_one_guards(module, given, graph))
    return replace(graph, reads=reads, guards=guards, signature=inspect.signature(module.forward))


def _distinct(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs with a copy in the place of a tensor that was given before: another call may give two."""
    seen: set[int] = set()

    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        again = id(value) in seen
        seen.add(id(value))
        return value.clone() if again else value

    mapped: tuple[Any, ...] = pytree.tree_map(copied, inputs)
    return mapped


def _settle_links(graph: fx.Graph, links: Links, log: ReadLog) -> dict[float, LinkedScalar]:
    """Number in the graph -> the attribute or argument that it is, for those that the forward pass only hands on.

    An attribute that was read more often than it stands in the graph was computed with, out of sight.
    """
    used = {key for key, value in links.floats.items() if value.is_used}
    counts = plain_numbers(graph, {})
    for (kind, path), value in links.floats.items():
        found = counts.get(value.sentinel, 0)
        if kind == "self" and log.times(path) != found:
            used.add((kind, path))
    plain_numbers(graph, {links.floats[key].sentinel: links.floats[key].true for key in used})
    return {
        value.sentinel: LinkedScalar(path, value.true, kind == "argument", tuple(value.asked))
        for (kind, path), value in links.floats.items()
        if (kind, path) not in used
    }


def _export(module: nn.Module, inputs: tuple[Any, ...], dynamic: bool) -> tuple[ExportedProgram, bool]:
    """Symbolic sizes first (sizes of 1 widened, since export fixes those), then as little as it takes."""
    attempts: list[tuple[tuple[Any, ...], bool]] = []
    if dynamic:
        widened = _without_singletons(inputs)
        if widened is not None:
            attempts.append((widened, True))
        attempts.append((inputs, True))
    attempts.append((inputs, False))
    problem: Exception | None = None
    for example, symbolic in attempts:
        try:
            return _export_once(module, pytree.tree_map(_fresh, example), symbolic), symbolic
        except Exception as error:
            problem = error
    assert problem is not None
    check_call(module, inputs)
    raise capture_error(problem)


def _fresh(value: Any) -> Any:
    """The same elements in a tensor of its own, on the host: an attempt marks the tensors that it is given."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_meta:
        return host_twin(value)
    storage, offset = value.untyped_storage(), value.storage_offset()
    return torch.empty(0, dtype=value.dtype, device=value.device).set_(storage, offset, value.size(), value.stride())


def _export_once(module: nn.Module, inputs: tuple[Any, ...], symbolic: bool) -> ExportedProgram:
    bound = inspect.signature(module.forward).bind(*inputs).arguments
    shapes = {name: _automatic_dims(value) for name, value in bound.items()} if symbolic else None
    with torch.no_grad(), quiet(), _attention_written_out():
        program: ExportedProgram = torch.export.export(module, inputs, dynamic_shapes=shapes)
        return functional(program)


@contextlib.contextmanager
def _attention_written_out() -> Iterator[None]:
    """torch's layers of attention as the operations that they are made of, not as one for their fast path."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _automatic_dims(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return dict.fromkeys(range(value.dim()), Dim.AUTO)
    if isinstance(value, list | tuple):
        return type(value)(_automatic_dims(item) for item in value)
    if isinstance(value, dict):
        return {key: _automatic_dims(item) for key, item in value.items()}
    return None


def _without_singletons(inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The inputs with a leading size of 1 widened to 2 in every tensor that has one; None if none has."""
    if not any(isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[0] == 1 for value in inputs):
        return None
    return tuple(
        value.expand(2, *value.shape[1:]).clone()
        if isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[0] == 1
        else value
        for value in inputs
    )


@contextlib.contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]  # forward may add or replace children
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def _graph_of(
    program: ExportedProgram,
    module: nn.Module,
    given: tuple[Any, ...],
    linked: Mapping[float, LinkedScalar],
    dynamic: bool,
) -> Graph:
    kinds: dict[InputKind, dict[str, str]] = {kind: {} for kind in InputKind}
    for spec in program.graph_signature.input_specs:
        kinds[spec.kind][getattr(spec.arg, "name", "")] = spec.target or ""
    constants = {
        name: value
        for name, target in kinds[InputKind.CONSTANT_TENSOR].items()
        if isinstance(value := program.constants[target], torch.Tensor)
    }
    if kinds[InputKind.CUSTOM_OBJ] or kinds[InputKind.TOKEN]:
        raise CaptureError("the reference cannot be captured: it holds custom objects or effects")
    if any(
        spec.kind.name in ("BUFFER_MUTATION", "USER_INPUT_MUTATION") for spec in program.graph_signature.output_specs
    ):
        raise CaptureError(
            "the reference cannot be captured: its forward pass changes a buffer or an input in place",
            hint="modules whose eval-mode forward has side effects are not supported",
        )
    returned = next(node for node in program.graph.nodes if node.op == "output").args[0]
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)  # a reader that would keep its tensor out of kernels
    inputs = tuple(kinds[InputKind.USER_INPUT])
    tensors = frozenset(
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    )
    return Graph(
        fx=program.graph,
        parameters=kinds[InputKind.PARAMETER],
        buffers=kinds[InputKind.BUFFER],
        constants=constants,
        constant_names=kinds[InputKind.CONSTANT_TENSOR],
        inputs=inputs,
        outputs=tuple(node.name for node in returned if isinstance(node, fx.Node)),
        single_output=program.call_spec.out_spec.is_leaf(),
        linked=linked,
        dynamic=dynamic,
        arguments=input_arguments(module, given, inputs, tensors),
        structure=output_structure(program.call_spec.out_spec),
        guards=size_guards(program.graph, tensors),
    )
