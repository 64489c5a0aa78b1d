"""Capture with `torch.export`: a module and example inputs in, a `Graph` out.

Sizes are captured symbolically wherever the module accepts others, so that what is emitted works for any
batch and spatial size. Floats that are attributes of the module, or arguments, are captured as links to those (see
`tilewright.graph.linked`), so that emitted code reads them instead of a literal. What else the forward pass reads of
the module is noted beside the graph (see `tilewright.graph.reads`).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from tilewright.errors import CaptureError, InputMismatchError, SourceLocation
from tilewright.graph.arguments import input_arguments, output_structure
from tilewright.graph.graph import Graph, LinkedScalar
from tilewright.graph.guards import size_guards
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
    with _in_eval_mode(module), recorded_reads(module, links.argument) as log:
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
            return _export_once(module, example, symbolic), symbolic
        except Exception as error:
            problem = error
    assert problem is not None
    _check_call(module, inputs)
    raise _capture_error(problem)


def _export_once(module: nn.Module, inputs: tuple[Any, ...], symbolic: bool) -> ExportedProgram:
    bound = inspect.signature(module.forward).bind(*inputs).arguments
    shapes = {name: _automatic_dims(value) for name, value in bound.items()} if symbolic else None
    with torch.no_grad(), _quiet():
        program: ExportedProgram = torch.export.export(module, inputs, dynamic_shapes=shapes)
        # An empty table decomposes nothing, but makes in-place operations functional.
        functional: ExportedProgram = program.run_decompositions({})
        return functional


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


def _check_call(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Tell inputs that do not fit from a module that cannot be captured, by calling it on meta tensors."""
    try:
        meta = copy.deepcopy(module).to("meta")
        with torch.no_grad():
            meta(*[value.to("meta") if isinstance(value, torch.Tensor) else value for value in inputs])
    except NotImplementedError:
        return
    except Exception as error:
        shapes = ", ".join(str(tuple(v.shape)) for v in inputs if isinstance(v, torch.Tensor))
        if isinstance(error, RuntimeError | TypeError | ValueError) and "meta" not in str(error).lower():
            raise InputMismatchError(
                f"the inputs (shapes {shapes}) do not fit the reference: {_first_line(error)}",
                hint="check the inputs' number, shapes and dtypes against the module's forward()",
            ) from error


def _capture_error(problem: Exception) -> CaptureError:
    where, operation = _stopping_place(problem)
    named = f" (stopped by `{operation}`)" if operation else ""
    return CaptureError(
        f"the reference cannot be captured{named}: {_first_line(problem)}",
        where=where,
        hint="torch.export needs a forward pass without control flow on tensor values",
    )


def _stopping_place(problem: BaseException) -> tuple[SourceLocation | None, str]:
    """The user's line that stopped the capture, and its text: the innermost frame outside of torch."""
    library = str(Path(torch.__file__).parent)
    place: tuple[SourceLocation | None, str] = (None, "")
    for frame in traceback.extract_tb(problem.__traceback__):
        own = frame.filename.startswith((library, str(Path(__file__).parent))) or frame.filename.startswith("<")
        if not own and frame.lineno is not None and "site-packages" not in frame.filename:
            place = (SourceLocation(frame.filename, frame.lineno), (frame.line or "").strip())
    return place


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = {name: child.training for name, child in module.named_modules()}
    module.eval()
    try:
        yield
    finally:
        for name, child in module.named_modules():
            child.training = modes[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs and prints what it retries; the caller reports what matters."""
    names = (
        "torch.export",
        "torch._dynamo",
        "torch._subclasses.fake_tensor",
        "torch.fx.experimental.symbolic_shapes",
        "torch._export",
    )
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
