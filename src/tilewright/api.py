"""The library: optimise, verify and inspect, from Python. The command calls the same functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.drop_in import check_choice, check_replaceable, drop_in
from tilewright.errors import SourceError
from tilewright.search.progress import Progress
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.study import Study
from tilewright.values.verdict import Verdict

if TYPE_CHECKING:
    from torch import nn

    from tilewright.proposers.llm import Settings
    from tilewright.search.fleet import Fleet
    from tilewright.search.understand import Inspection
    from tilewright.values.diagnosis import DiagnosisReport
    from tilewright.values.profile import ForwardProfile


def optimize(
    module: nn.Module,
    inputs: Sequence[Any],
    gpu: str | None = None,
    *,
    stage: str | None = None,
    precision: str | None = None,
    effort: str = "quick",
    name: str | None = None,
    out: str | Path | None = None,
    study: str | Path | None = None,
    progress: Progress | None = None,
    llm: Settings | None = None,
    again: bool = False,
    cuda_graphs: bool = False,
    if_beaten: str = "module",
) -> nn.Module:
    """A faster module that can take the place of `module`, verified against it.

    The result is of `module`'s class and shares all that it owns: parameters, buffers, children, attributes, hooks. An
    update to any of them is seen, in whichever way it is made. On CPU tensors, where gradients are wanted, and wherever
    a call or the module is not what the kernels were planned for, it does what `module` does. It can be copied and
    pickled. The evidence is its attribute `tilewright_study`, a `tilewright.values.study.Study`.

    Where nothing better is found, or torch.compile is faster, `module` itself is returned (with the study as its
    attribute, too) and a `NothingBetterWarning` is given; `if_beaten` asks for something else where torch.compile is.
    The study's `peers` hold the times of its modes.

    Args:
        module: the reference; it is not changed.
        inputs: example inputs, as `module(*inputs)` takes them.
        gpu: the target, a name of the table or a path to a TOML file; the installed GPU if None.
        stage: the one stage to run; all of them if None.
        precision: precision class (`ieee`, `tf32`, `fp16`, `bf16`); what torch's own flags say if None.
        effort: `none`, `quick` or `full`.
        name: of the task, for files and tables; the class's name if None.
        out: folder for `model_new.py`, `report.json` and `report.html`; none are written if None.
        study: the study store's file; one in `out`, or in the user's cache folder, if None.
        progress: told what is being tried.
        llm: a language model to ask beside the engine (`tilewright.proposers.llm.Settings`); none if None.
        again: search also where the study holds a finished run for this task, these versions and this effort;
            otherwise its result is found again without a search.
        cuda_graphs: calls will be captured in CUDA graphs: the GPU's time alone decides, not that of a call.
        if_beaten: what to return where a mode of torch.compile is faster: `module` as it is; `ours`, the fastest of
            ours all the same; or `compiled`, `module` compiled in that mode (`tilewright.compiled_peer`).

    Raises:
        LlmError: the language model cannot be used.
        InputMismatchError: the inputs do not fit the module.
        CaptureError: the module cannot be captured; the operation is named.
        UnknownGpuError: no such GPU, or none was named and none is installed.
        SourceError: `module` is no module, or its forward pass was replaced on the instance.
    """
    from tilewright.task.load import installed_gpu, task_from_module

    target = installed_gpu() if gpu is None else gpu
    task = task_from_module(module, inputs, gpu=target, stage=stage, precision=precision, name=name)
    check_replaceable(module)
    check_choice(if_beaten)
    folder = None if out is None else Path(out)
    result = _search(task, effort, folder, progress, study, "", llm, again, graphs=cuda_graphs)
    if if_beaten == "ours":
        result = result.keeping_ours()
    if folder is not None:
        from tilewright.report.files import write_report

        write_report(result, folder)
    return drop_in(module, result, if_beaten)


def optimize_file(
    path: str | Path,
    *,
    reference: str | Path | None = None,
    init: str | None = None,
    inputs: str | None = None,
    gpu: str | None = None,
    stage: str | None = None,
    precision: str | None = None,
    strict: bool = False,
    effort: str = "quick",
    out: str | Path | None = None,
    study: str | Path | None = None,
    progress: Progress | None = None,
    command: str = "",
    llm: Settings | None = None,
    again: bool = False,
    also_inputs: Sequence[str] = (),
    fleet: Fleet | None = None,
    cuda_graphs: bool = False,
    keep: bool = False,
) -> Study:
    """Search for a faster module for a document or a Python file, and write the results to `out`.

    Args:
        path: a document, or a Python file with `Model`, `get_inputs` and `get_init_inputs`.
        reference: for a document, the Python file that says what is right.
        init, inputs: for a document without reference, how to call its code (`--init`, `--inputs`).
        gpu, stage, precision, effort, study, progress, llm, again, cuda_graphs: as `optimize` takes them; `stage` may
            be `document`.
        strict: one literal `tl.store` an output and nothing else (`--rules strict`).
        also_inputs: further inputs on which the result should be fast, each a text as `inputs`: schedules are then
            chosen by shape, in a table in the written file.
        out: folder for `model_new.py`, `report.json` and `report.html`; none are written if None.
        command: the command that repeats the run, for the report.
        keep: write the fastest of ours also where a mode of torch.compile is faster.

    Raises:
        TilewrightError: the input is at fault; nothing was written.
    """
    from tilewright.report.files import check_writable, write_report

    task = load(path, reference, init, inputs, gpu, stage, precision, strict, also_inputs)
    folder = None if out is None else Path(out)
    if folder is not None:
        check_writable(folder)
    result = _search(task, effort, folder, progress, study, command, llm, again, fleet, graphs=cuda_graphs)
    if keep:
        result = result.keeping_ours()
    if folder is not None:
        write_report(result, folder)
    return result


def _search(
    task: Task,
    effort: str,
    out: Path | None,
    progress: Progress | None,
    study: str | Path | None,
    command: str,
    llm: Settings | None,
    again: bool,
    fleet: Fleet | None = None,
    *,
    graphs: bool = False,
) -> Study:
    """Run the search, with a language model beside the engine where one is asked for."""
    from tilewright.search.fleet_tools import fleet_tools
    from tilewright.search.run import optimize_task

    model, replay, note = None, None, ""
    if llm is not None:
        from tilewright.proposers.llm.connect import connect_if_there, replayed_study

        replay = replayed_study(llm)
        model, note = connect_if_there(llm)
    try:
        return optimize_task(
            task,
            effort=effort,
            out=out,
            progress=progress,
            study=None if study is None else Path(study),
            command=command,
            conversation=model,
            replay=replay,
            notes=[note] if note else [],
            again=again,
            graphs=graphs,
            tools=None if fleet is None else fleet_tools(fleet),
        )
    finally:
        if model is not None:
            model.close()


def load(
    path: str | Path,
    reference: str | Path | None = None,
    init: str | None = None,
    inputs: str | None = None,
    gpu: str | None = None,
    stage: str | None = None,
    precision: str | None = None,
    strict: bool = False,
    also_inputs: Sequence[str] = (),
) -> Task:
    """Read a task from a document or a Python file; the arguments are those of `optimize_file`.

    Raises:
        TilewrightError: the input is at fault.
    """
    from tilewright.task.load import load_task

    task = load_task(
        Path(path),
        reference=None if reference is None else Path(reference),
        init=init,
        inputs=inputs,
        gpu=gpu,
        stage=stage,
        precision=precision,
        also_inputs=also_inputs,
    )
    if strict:
        task = replace(task, output_rules=replace(task.output_rules, strict_stores=True))
    return task


def verify(
    reference: str | Path,
    candidate: str | Path,
    *,
    init: str | None = None,
    inputs: str | None = None,
    gpu: str | None = None,
    precision: str | None = None,
    strict: bool = False,
    effort: str = "quick",
    progress: Callable[[str], None] | None = None,
) -> Verdict:
    """Put any `ModelNew` through the gate.

    Args:
        reference: a Python file with `Model`, `get_inputs` and `get_init_inputs`, or a document whose code is
            the specification (then `init` and `inputs` say how to call it).
        candidate: a Python file with `ModelNew`, a model's reply with one python block, or a document, whose
            current code is meant.
        gpu: the target, a name of the table or a path to a TOML file; the installed GPU if None.
        precision: precision class; what the reference's form defaults to if None.
        strict: one literal `tl.store` an output and nothing else.
        effort: of the gate: `quick` or `full`.
        progress: told what is being checked.

    Raises:
        TilewrightError: one of the files is at fault.
    """
    return verify_files(reference, candidate, init, inputs, gpu, precision, strict, effort, progress)[2]


def verify_files(
    reference: str | Path,
    candidate: str | Path,
    init: str | None,
    inputs: str | None,
    gpu: str | None,
    precision: str | None,
    strict: bool,
    effort: str,
    progress: Callable[[str], None] | None,
) -> tuple[Task, Candidate, Verdict]:
    """`verify`, with the task and the candidate that it read."""
    from tilewright.gate.verify import verify as gate
    from tilewright.task.load import require_reference

    read = read_candidate(Path(candidate))
    task = load(reference, None, init, inputs, gpu, None, precision, strict)
    require_reference(task)
    return task, read, gate(task, read, effort=effort, progress=progress)


def read_candidate(path: Path) -> Candidate:
    """The candidate in a Python file, a model's reply or a document.

    Raises:
        TilewrightError: it cannot be read, or holds no code.
    """
    from tilewright.task import reply
    from tilewright.task.document import looks_like_document, read_document
    from tilewright.task.text_file import read_text

    text = read_text(path, SourceError)
    if path.suffix != ".py" and looks_like_document(text):
        return Candidate(read_document(text, path).code, Origin.DOCUMENT, path.name)
    return Candidate(reply.read_candidate(path)[0], Origin.FILE, path.name)


def profile(
    target: str | Path | nn.Module,
    inputs: Sequence[Any] | str | None = None,
    *,
    reference: str | Path | None = None,
    init: str | None = None,
    gpu: str | None = None,
    precision: str | None = None,
    model: bool = False,
    read: bool = False,
) -> ForwardProfile:
    """The profile of a forward pass: Nsight Compute's metrics of each kernel, measured, modelled, or from a file.

    Args:
        target: a document, a Python file, or a live module; with `read`, a profile's file.
        inputs: example inputs of a live module; for a document, text as `--inputs` takes it.
        reference, init, gpu, precision: as `optimize_file` takes them.
        model: predict it for the target; no GPU is needed.
        read: `target` is output of `ncu --csv`, an `.ncu-rep` report, a document or its JSON of metrics.

    Raises:
        TilewrightError: the input is at fault, or there is no GPU to measure on.
    """
    if read:
        from tilewright.measure.imported import import_profile

        return import_profile(str(target), gpu=gpu or "")
    task = _task_of(target, inputs, reference, init, gpu, precision)
    if model:
        from tilewright.measure.predict import predict_profile

        return predict_profile(task)
    from tilewright.measure.collect import collect_profile

    return collect_profile(task)


def _task_of(
    target: str | Path | nn.Module,
    inputs: Sequence[Any] | str | None,
    reference: str | Path | None,
    init: str | None,
    gpu: str | None,
    precision: str | None,
) -> Task:
    """The task of a path, or of a live module with example inputs."""
    if isinstance(target, str | Path):
        if inputs is not None and not isinstance(inputs, str):
            raise SourceError("inputs of a file are given as text", hint="inputs='rand(8, 16)'")
        return load(target, reference, init, inputs, gpu, None, precision)
    from tilewright.task.load import task_from_module

    if inputs is None or isinstance(inputs, str):
        raise SourceError("a live module needs example inputs", hint="profile(module, [x])")
    return task_from_module(target, inputs, gpu=gpu, precision=precision)


def inspect(
    target: str | Path | nn.Module,
    inputs: Sequence[Any] | str | None = None,
    *,
    reference: str | Path | None = None,
    init: str | None = None,
    gpu: str | None = None,
    stage: str | None = None,
    precision: str | None = None,
) -> Inspection:
    """What is understood of a document, a Python file, or a module with example inputs; nothing is tried.

    Args:
        target: a path, or a live module.
        inputs: example inputs of a live module; for a document, text as `--inputs` takes it.
        reference, init, gpu, stage, precision: as `optimize_file` takes them.

    Raises:
        TilewrightError: the input is at fault.
    """
    from tilewright.search.understand import inspect_task

    if isinstance(target, str | Path):
        if inputs is not None and not isinstance(inputs, str):
            raise SourceError("inputs of a file are given as text", hint="inputs='rand(8, 16)'")
        return inspect_task(load(target, reference, init, inputs, gpu, stage, precision))
    from tilewright.task.load import task_from_module

    if inputs is None or isinstance(inputs, str):
        raise SourceError("a live module needs example inputs", hint="inspect(module, [x])")
    return inspect_task(task_from_module(target, inputs, gpu=gpu, stage=stage, precision=precision))


def diagnose(
    path: str | Path,
    *,
    reference: str | Path | None = None,
    init: str | None = None,
    inputs: str | None = None,
    ncu: str | Path | None = None,
    gpu: str | None = None,
    precision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> DiagnosisReport:
    """Say what holds code back, most important first: each cause with evidence, cost in ms, and a remedy.

    It speaks of the whole forward pass. Figures are measured where a document or `ncu` brings them, and modelled
    elsewhere; each says which.

    Args:
        path: a document, a Python file with `ModelNew`, or one with `Model` alone (looked at in eager PyTorch).
        reference: for code without one of its own, the Python file that says what is right and how to call it.
        init, inputs: for code without reference, how to call it (`--init`, `--inputs`).
        ncu: a profile from Nsight Compute (`--csv`, `.ncu-rep` or the documents' JSON).
        gpu, precision: as `optimize_file` takes them.
        progress: told what is being looked at.

    Raises:
        TilewrightError: the input is at fault.
    """
    from tilewright.search.sight import look_at_task

    task = load(path, reference, init, inputs, gpu, None, precision)
    return look_at_task(task, None if ncu is None else Path(ncu), progress).report


def study(
    action: str,
    path: str | Path,
    *,
    task: str | None = None,
    file: str | Path | None = None,
    best_only: bool = False,
    older_than_days: float | None = None,
) -> dict[str, Any]:
    """What was tried and found: list, show, export, import and prune a study store.

    Args:
        action: `list` (the tasks), `show` (one task's trials and result), `export` (portable JSON), `import`
            (what was exported elsewhere) or `prune` (forget what was made under other versions).
        path: the study file.
        task: a task's name or the beginning of its key: needed by `show`, narrows `export` and `prune`.
        file: where `export` writes (it returns the data if None), what `import` reads.
        best_only: `export` leaves the trials out.
        older_than_days: `prune` forgets what ended longer ago, too.

    Raises:
        TilewrightError: there is no such study, action, task or file; or it cannot be written.
    """
    from tilewright.search import studies
    from tilewright.search.store import StoreError
    from tilewright.values.serialise import as_json

    place = Path(path)
    if action == "list":
        return {"tasks": [as_json(one) for one in studies.list_tasks(place)]}
    if action == "show" and task is not None:
        return dict(studies.show_task(place, task))
    if action == "export":
        data = studies.export_study(place, task, best_only=best_only)
        if file is None:
            return dict(data)
        from tilewright.report.files import write_atomically

        try:
            write_atomically(Path(file), json.dumps(data) + "\n")
        except OSError as error:
            raise StoreError(f"the export cannot be written: {error}") from None
        records = data["records"]
        return {"file": str(file), "records": len(records) if isinstance(records, list) else 0}
    if action == "import" and file is not None:
        return {"records": studies.import_study(place, Path(file)), "study": str(place)}
    if action == "prune":
        return {"forgotten": dict(studies.prune_study(place, task=task, older_than_days=older_than_days))}
    needs = {"show": "a task", "import": "a file"}.get(action)
    what = f"study {action} needs {needs}" if needs is not None else f"there is no study action {action!r}"
    raise StoreError(what, hint="list; show TASK; export; import FILE; prune")
