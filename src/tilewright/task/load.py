"""Tasks out of what a user gives: a document, a Python file, or a live module with example inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.errors import (
    InputMismatchError,
    MissingReferenceError,
    SourceError,
    SourceLocation,
    TilewrightError,
    UnknownGpuError,
)
from tilewright.gpu.detect import detect_gpu
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.table import find_gpu
from tilewright.task.document import looks_like_document, read_document
from tilewright.task.input_spec import parse_init, parse_inputs
from tilewright.task.precision import module_precision, source_precision
from tilewright.task.python_source import bound_names, parse_source, require_names
from tilewright.task.stage import FULL_RUN, Stage
from tilewright.task.stage_rules import parse_stage, rules_for
from tilewright.task.task import Document, ModuleSource, Task
from tilewright.task.text_file import read_text
from tilewright.values.precision import PrecisionClass

#: The target where no GPU is named and none is installed: the documents' own.
DEFAULT_GPU = "rtx-4090"

_HOW_TO_CALL = (
    "give --reference FILE (a Python file with Model, get_inputs, get_init_inputs), "
    "or --init '[...]' and --inputs 'rand(...)' to take the document's code as the specification"
)


def load_task(
    path: Path,
    *,
    reference: Path | None = None,
    init: str | None = None,
    inputs: str | None = None,
    gpu: str | None = None,
    stage: str | None = None,
    precision: str | None = None,
    also_inputs: Sequence[str] = (),
) -> Task:
    """The task that a file describes, together with what the command was given.

    A document and a Python file are told apart by what is in them.

    Args:
        path: a document, or a Python file with `Model` (or, for a starting kernel, `ModelNew`).
        reference: a Python file that says what is right.
        init: constructor arguments, literals.
        inputs: inputs, fillers and literals.
        gpu: name, alias or TOML file, in the place of the document's; a Python file without one is for the
            installed GPU, or the RTX 4090 where there is none.
        stage: one stage, `document` for the document's own, or `all`.
        precision: precision class; documents default to tf32, modules to what torch's flags say.
        also_inputs: further inputs on which the result should be fast, each as `inputs`.

    Raises:
        TilewrightError: of the class that fits the mistake, with file and line.
    """
    text = read_text(path)
    target = find_gpu(gpu) if gpu is not None else None
    asked = _asked_stage(stage)
    kind = _parse_precision(precision)
    more = tuple(parse_inputs(item, "--also-inputs") for item in also_inputs)
    if _is_document(text):
        found = _document_task(path, text, reference, init, inputs, target, asked, kind)
        return replace(found, also_inputs=more)
    if asked == "document":
        raise TilewrightError(
            "--stage document needs a document", where=SourceLocation(str(path)), hint=f"stages: {', '.join(Stage)}"
        )
    found = _python_task(path, text, reference, init, inputs, target, asked, kind)
    return replace(found, also_inputs=more)


def task_from_module(
    module: nn.Module,
    inputs: Sequence[Any] | torch.Tensor,
    *,
    gpu: str | Gpu | None = None,
    stage: str | None = None,
    precision: str | None = None,
    name: str | None = None,
) -> Task:
    """The task of a live module with example inputs.

    Args:
        module: what is right; its parameters travel by value, the caller's stay as they are.
        inputs: positional arguments of one forward pass (a single tensor counts as one).
        gpu: name, alias, TOML file or `Gpu`; the installed one, or the RTX 4090, where none is given.
        stage: one stage; all of them where none is given.
        precision: precision class; what torch's flags say where none is given.
        name: of the task; the module's class where none is given.

    Raises:
        InputMismatchError: the module or its inputs cannot be sent to another process.
        TilewrightError: no module, an unknown GPU, stage or precision class.
    """
    if not isinstance(module, nn.Module):
        raise SourceError(f"a torch.nn.Module is needed, not {type(module).__name__}")
    arguments = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
    target = gpu if isinstance(gpu, Gpu) else _target(find_gpu(gpu) if gpu is not None else None)
    asked = _asked_stage(stage)
    if asked == "document":
        raise TilewrightError("a live module has no document", hint=f"stages: {', '.join(Stage)}")
    stages = (asked,) if isinstance(asked, Stage) else FULL_RUN
    class_name = type(module).__name__
    return Task(
        name=name or class_name,
        reference=ModuleSource(source="", class_name=class_name, pickled=_pickled(module, arguments)),
        gpu=target,
        stages=stages,
        rules=tuple(rules_for(item, None) for item in stages),
        precision=_parse_precision(precision) or module_precision(module),
    )


def _pickled(module: nn.Module, arguments: Sequence[Any]) -> bytes:
    import cloudpickle

    # What a tensor remembers of its own computation cannot travel, and is not needed.
    values = [item.detach() if isinstance(item, torch.Tensor) else item for item in arguments]
    try:
        data: bytes = cloudpickle.dumps((module, values))
    except Exception as error:  # any class of the user's may refuse, in any way
        reason = str(error).split("\n")[0][:200]
        raise InputMismatchError(f"the module cannot be sent to another process: {reason}") from None
    return data


def _is_document(text: str) -> bool:
    """By content: what parses as Python is Python, whatever stands in its strings."""
    try:
        parse_source(text)
    except SourceError:
        return looks_like_document(text)
    return False


def _asked_stage(stage: str | None) -> Stage | str | None:
    """A stage, `document`, or None for all of them."""
    if stage is None or stage.strip().lower() == "all":
        return None
    return "document" if stage.strip().lower() == "document" else parse_stage(stage)


def _parse_precision(precision: str | None) -> PrecisionClass | None:
    if precision is None:
        return None
    try:
        return PrecisionClass(precision.strip().lower())
    except ValueError:
        known = ", ".join(PrecisionClass)
        raise TilewrightError(f"unknown precision class {precision[:60]!r}", hint=f"there are {known}") from None


def installed_gpu() -> Gpu:
    """The GPU of this machine.

    Raises:
        UnknownGpuError: there is none.
    """
    found = detect_gpu()
    if found is None:
        raise UnknownGpuError("no GPU is named and none is installed", hint='name the target: gpu="4090"')
    return found


def _target(gpu: Gpu | None) -> Gpu:
    return gpu or detect_gpu() or find_gpu(DEFAULT_GPU)


def _document_task(
    path: Path,
    text: str,
    reference: Path | None,
    init: str | None,
    inputs: str | None,
    gpu: Gpu | None,
    asked: Stage | str | None,
    precision: PrecisionClass | None,
) -> Task:
    document = read_document(text, path, gpu=gpu, stage=asked if isinstance(asked, Stage) else None)
    own = document.rules.stage
    source, is_specification = _document_reference(document, path, reference, init, inputs)
    if isinstance(asked, Stage):
        stages: tuple[Stage, ...] = (asked,)
    elif asked == "document" or source is None or is_specification:
        stages = (own,)
    else:
        stages = FULL_RUN
    return Task(
        name=path.stem,
        reference=source,
        gpu=document.gpu,
        stages=stages,
        rules=tuple(rules_for(item, document.rules) for item in stages),
        precision=precision or PrecisionClass.TF32,
        output_rules=document.output_rules,
        given_code=document.code,
        metrics=document.metrics,
        document=document,
        given_code_is_specification=is_specification,
    )


def _document_reference(
    document: Document, path: Path, reference: Path | None, init: str | None, inputs: str | None
) -> tuple[ModuleSource | None, bool]:
    """The reference of a document's task, and whether it is the document's own code."""
    if reference is not None:
        return _reference_source(reference, init, inputs), False
    if init is None and inputs is None:
        return None, False
    if init is None or inputs is None:
        missing = "--init" if init is None else "--inputs"
        raise MissingReferenceError(
            f"{missing} is missing: the document's code needs both to be called",
            where=SourceLocation(str(path)),
            hint=_HOW_TO_CALL,
        )
    given = ModuleSource(document.code, "ModelNew", path, first_line=document.code_line)
    return replace(given, init_args=parse_init(init), inputs=parse_inputs(inputs)), True


def require_reference(task: Task) -> ModuleSource:
    """The task's reference.

    Raises:
        MissingReferenceError: a document alone does not say how to call its code; the hint says what to give.
    """
    if task.reference is not None:
        return task.reference
    path = task.document.path if task.document is not None else None
    raise MissingReferenceError(
        "a document has neither a reference nor inputs",
        where=SourceLocation(str(path)) if path is not None else None,
        hint=_HOW_TO_CALL,
    )


def _reference_source(path: Path, init: str | None, inputs: str | None) -> ModuleSource:
    """The reference in a Python file; what the command gives comes before the file's own functions."""
    text = read_text(path, SourceError)
    if _is_document(text):
        raise SourceError("the reference is a document, not a Python file", where=SourceLocation(str(path)))
    return module_source_from_text(text, path, init=init, inputs=inputs)


def module_source_from_text(
    text: str, path: Path | None, *, class_name: str = "Model", init: str | None = None, inputs: str | None = None
) -> ModuleSource:
    """A `ModuleSource` out of a Python file's text, its names checked without running it.

    Raises:
        SourceError: the text does not parse, or a class or function is missing.
        InputSpecError: `init` or `inputs` is not what it should be.
    """
    if not text.strip():
        raise SourceError("the file is empty", where=SourceLocation("<source>" if path is None else str(path)))
    names = [class_name, *(["get_inputs"] if inputs is None else [])]
    require_names(parse_source(text, path), names, path)
    return ModuleSource(
        source=text.removeprefix("\ufeff"),
        class_name=class_name,
        path=path,
        init_args=None if init is None else parse_init(init),
        inputs=None if inputs is None else parse_inputs(inputs),
    )


def _python_task(
    path: Path,
    text: str,
    reference: Path | None,
    init: str | None,
    inputs: str | None,
    gpu: Gpu | None,
    asked: Stage | str | None,
    precision: PrecisionClass | None,
) -> Task:
    names = bound_names(parse_source(text, path))
    has_kernels = "ModelNew" in names
    is_specification = reference is None and has_kernels and "Model" not in names
    if reference is not None:
        if not has_kernels:
            require_names(parse_source(text, path), ["ModelNew"], path)
        source = _reference_source(reference, init, inputs)
    else:
        class_name = "ModelNew" if is_specification else "Model"
        source = module_source_from_text(text, path, class_name=class_name, init=init, inputs=inputs)
    stages = (asked,) if isinstance(asked, Stage) else FULL_RUN
    return Task(
        name=path.stem,
        reference=source,
        gpu=_target(gpu),
        stages=stages,
        rules=tuple(rules_for(item, None) for item in stages),
        precision=precision or source_precision(source.source),
        given_code=text.removeprefix("\ufeff") if has_kernels else None,
        given_code_is_specification=is_specification,
    )
