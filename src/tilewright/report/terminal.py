"""Reports for the terminal: rich tables and short paragraphs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tilewright.gpu.gpu import Gpu
from tilewright.gpu.speed_of_light import SpeedOfLight
from tilewright.report.summary import (
    bound_text,
    bytes_text,
    error_text,
    fraction_text,
    left_out,
    operations_text,
    rows,
    sentence,
    spent_text,
    time_text,
)
from tilewright.search.understand import Inspection
from tilewright.values.measurement import bound_by
from tilewright.values.precision import PrecisionClass
from tilewright.values.study import Outcome, Study, Trial
from tilewright.values.verdict import Finding, Severity, Verdict

#: Characters of a finding's message in the terminal.
_MESSAGE_LENGTH = 360

_OUTCOME_STYLE = {
    Outcome.GIVEN: "cyan",
    Outcome.KEPT: "green",
    Outcome.REVERTED: "yellow",
    Outcome.REJECTED: "red",
}
_SEVERITY_STYLE = {Severity.ERROR: "red", Severity.LIMIT: "yellow", Severity.NOTE: "cyan"}


def _table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def study_view(study: Study) -> Group:
    """A run of `optimize`: the summary table, trials, findings on the given code, notes, the verdict."""
    parts: list[RenderableType] = [summary_table(study), *_trials(study)]
    if study.given is not None and study.given.verdict is not None and study.given.verdict.findings:
        parts.append(findings_table("what the gate says of the given code", study.given.verdict.findings))
    parts.extend(Text(line, style="dim") for line in left_out(study))
    parts.extend(Text(line) for line in _about_best(study))
    parts.extend(
        Text(f"what holds back {sight.subject}: {sight.report.summary}")
        for sight in study.sights
        if sight.subject != "reference" or len(study.sights) == 1
    )
    parts.extend(Text(f"note: {note}", style="dim") for note in study.notes)
    parts.append(Text(sentence(study), style="bold green" if study.best is not None else "bold yellow"))
    parts.append(Text(spent_text(study), style="dim"))
    return Group(*parts)


def summary_table(study: Study) -> Table:
    """Reference, given code and ours: time, fraction of the speed of light, error, how the time was obtained."""
    against = "float64" if study.oracle == "reference" else "given code"
    title = f"{study.task} on {study.gpu}, {study.precision}"
    if study.speed_of_light is not None:
        title += f" (speed of light {study.speed_of_light.time_ms:.4g} ms: {study.speed_of_light.limit})"
    error_column = f"error against {against}"
    numbers = ("time", "on the GPU", "of speed of light", error_column)
    table = _table(title, "", *numbers, "bound by", "measured or modelled", "", right=numbers)
    for row in rows(study):
        error = error_text(row.error)
        if row.allowed is not None:
            error += f" (allowed {error_text(row.allowed)})"
        table.add_row(
            row.name,
            time_text(row.timing),
            "-" if row.timing is None else f"{row.timing.gpu_ms:.4g} ms",
            fraction_text(row.speed_of_light_fraction),
            error,
            (bound_by(row.timing) if row.timing is not None else "") or "-",
            row.timing.label if row.timing is not None else "-",
            row.remark,
        )
    return table


def _trials(study: Study) -> Iterator[RenderableType]:
    """What was kept or rejected, in a table; what gained nothing, in a line."""
    idle = [trial for trial in study.trials if trial.outcome is Outcome.REVERTED]
    shown = [trial for trial in study.trials if trial.outcome is not Outcome.REVERTED]
    if shown:
        yield trials_table(shown)
    if idle:
        nearest = min(idle, key=lambda trial: trial.timing.time_ms if trial.timing is not None else math.inf)
        yield Text(
            f"{len(idle)} more gained nothing; the fastest of them, {nearest.candidate.description}: {nearest.reason}"
        )


def trials_table(trials: Sequence[Trial]) -> Table:
    """Trials in order: what was tried, what became of it, and why."""
    table = _table("trials", "no", "stage", "what", "time", "outcome", "why", right=("no", "time"))
    for trial in trials:
        outcome = f"[{_OUTCOME_STYLE[trial.outcome]}]{trial.outcome}[/]" + (" (stored)" if trial.resumed else "")
        what = f"{trial.candidate.origin}: {trial.candidate.description}"
        table.add_row(
            str(trial.number), trial.stage, escape(what), time_text(trial.timing), outcome, escape(trial.reason)
        )
    return table


def _about_best(study: Study) -> Iterator[str]:
    if study.ours is None:
        return
    if bound := bound_text(study.ours.timing):
        yield f"ours is {bound}" if bound.startswith("bound") else f"ours: {bound}"
    candidate = study.ours.candidate
    yield f"left to PyTorch: {', '.join(candidate.native) or 'nothing'}"
    if candidate.collapses:
        yield f"collapsed by algebra: {', '.join(candidate.collapses)}"
    for scratch in candidate.scratch:
        yield f"scratch: {scratch}"


def findings_table(title: str, findings: Sequence[Finding]) -> Table:
    """What the gate's checks found."""
    table = _table(title, "severity", "check", "where", "what")
    for finding in findings:
        style = _SEVERITY_STYLE[finding.severity]
        table.add_row(f"[{style}]{finding.severity}[/]", finding.check, escape(finding.where), escape(finding.message))
    return table


def _shortened(message: str) -> str:
    """A message that fits a terminal; the reports have it whole."""
    return message if len(message) <= _MESSAGE_LENGTH else message[: _MESSAGE_LENGTH - 4] + " ..."


def errors_table(verdict: Verdict) -> Table:
    """The gate's error table, one row a probe."""
    numbers = ("seed", "reference", "candidate", "allowed", "worst", "allowed worst")
    title = f"error against the {verdict.oracle or 'oracle'} (norm-wise, then element-wise)"
    table = _table(title, "probe", *numbers, "", right=numbers)
    for row in verdict.errors:
        table.add_row(
            escape(row.probe),
            str(row.seed),
            error_text(row.reference_error),
            error_text(row.candidate_error),
            error_text(row.allowed_error),
            error_text(row.candidate_worst),
            error_text(row.allowed_worst),
            "[green]passed[/]" if row.passed else "[red]failed[/]",
        )
    return table


def resources_table(verdict: Verdict) -> Table:
    """What the compiler says of each kernel."""
    numbers = ("registers", "spilled bytes", "shared memory", "warps")
    table = _table("kernels as compiled", "kernel", "schedule", "target", *numbers, right=numbers)
    for row in verdict.resources:
        table.add_row(
            escape(row.kernel),
            escape(row.schedule),
            f"sm_{row.capability}",
            str(row.registers),
            str(row.spill_bytes),
            f"{row.shared_bytes} B",
            str(row.warps),
        )
    return table


def verdict_view(verdict: Verdict, candidate: str) -> Group:
    """A run of `verify`."""
    parts: list[RenderableType] = []
    if verdict.resources:
        parts.append(resources_table(verdict))
    if verdict.errors:
        parts.append(errors_table(verdict))
    if verdict.findings:
        parts.append(findings_table("findings", verdict.findings))
    where = f" in {verdict.how}" if verdict.how else ""
    if verdict.accepted:
        line = Text(f"{candidate}: accepted ({len(verdict.errors)} probes{where}, {verdict.seconds:.1f} s)")
        line.stylize("bold green")
    else:
        count = len(verdict.reasons)
        line = Text(f"{candidate}: rejected for {count} reason{'s' if count > 1 else ''} ({verdict.seconds:.1f} s)")
        line.stylize("bold red")
    return Group(*parts, line)


def inspection_view(inspection: Inspection) -> Group:
    """A run of `inspect`."""
    parts: list[RenderableType] = [_facts_table(inspection)]
    task, understood = inspection.task, inspection.understanding
    if understood.floors:
        parts.append(_floors_table(task.gpu, task.precision, list(understood.floors.items())))
    for kernel, metrics in task.metrics.items():
        table = _table(f"profile of {kernel}", "metric", "value", right=("value",))
        for name, value in metrics.items():
            table.add_row(name, f"{value:g}")
        parts.append(table)
    if not task.has_reference:
        parts.append(Text("no reference: give --reference FILE (or --init and --inputs) to optimise it", style="dim"))
    return Group(*parts)


def _facts_table(inspection: Inspection) -> Table:
    task, understood = inspection.task, inspection.understanding
    table = _table(task.name, "what", "understood")
    table.add_row("GPU", f"{task.gpu.name} (sm_{task.gpu.capability}, {task.gpu.bandwidth_gb_s:g} GB/s)")
    table.add_row("precision class", str(task.precision))
    table.add_row("stages", ", ".join(str(stage) for stage in task.stages))
    for rules in task.rules:
        table.add_row(f"rules of {rules.stage}", escape(_rules_text(rules)))
    oracle = "the given code" if task.given_code_is_specification else "the reference"
    table.add_row("what says what is right", oracle if task.has_reference else "nothing yet")
    if task.given_code is not None:
        lines = task.given_code.count("\n") + 1
        table.add_row("given code", f"{lines} lines, kernels: {', '.join(inspection.kernels) or 'none'}")
    if task.document is not None and task.document.api_constraints:
        table.add_row("API constraints", escape("\n".join(task.document.api_constraints)))
    if understood.operations:
        table.add_row("operations", escape(", ".join(understood.operations)))
        table.add_row("input shapes", escape("; ".join(str(list(shape)) for shape in understood.input_shapes)))
        table.add_row("output shapes", escape("; ".join(str(list(shape)) for shape in understood.output_shapes)))
    if understood.work is not None:
        work = understood.work
        table.add_row(
            "least work",
            f"read {bytes_text(work.read_bytes)}, write {bytes_text(work.written_bytes)}, "
            f"{operations_text(work.matrix_operations)} matrix and {operations_text(work.scalar_operations)} other "
            "operations",
        )
    return table


def _rules_text(rules: Any) -> str:
    parts = [f"focus: {rules.focus}"]
    if rules.num_warps:
        parts.append(f"num_warps in {list(rules.num_warps)}")
    if rules.num_stages:
        parts.append(f"num_stages in {list(rules.num_stages)}")
    if rules.max_autotune_configs is not None:
        parts.append(f"at most {rules.max_autotune_configs} autotune configs")
    if rules.conservative_baseline is not None:
        parts.append("always num_warps={}, num_stages={}".format(*rules.conservative_baseline))
    if rules.one_store_per_output:
        parts.append("one store an output")
    if not rules.may_change_grid:
        parts.append("the grid stays")
    parts += [f"if {when}: {advice}" for when, advice in rules.conditions]
    parts.append(f"a gain under {rules.min_gain_percent:g} % is reverted")
    return "; ".join(parts)


def _floors_table(gpu: Gpu, precision: PrecisionClass, floors: Sequence[tuple[PrecisionClass, SpeedOfLight]]) -> Table:
    numbers = ("time", "memory", "matrix", "other")
    title = f"speed of light on {gpu.name}"
    table = _table(title, "class", *numbers, "bound by", "rate of", right=numbers)
    for kind, floor in floors:
        table.add_row(
            f"{kind} (this task)" if kind is precision else str(kind),
            f"{floor.time_ms:.4g} ms",
            f"{floor.memory_ms:.4g} ms",
            f"{floor.matrix_ms:.4g} ms",
            f"{floor.scalar_ms:.4g} ms",
            floor.limit,
            f"{floor.operand}, {floor.matrix_tflops:g} TFLOP/s",
        )
    return table


def gpus_view(gpus: Sequence[Gpu], installed: Gpu | None) -> Group:
    """A run of `gpus`."""
    numbers = ("SMs", "GB/s", "L2", "FP32", "TF32", "FP16", "GB")
    table = _table("GPUs (rates in TFLOP/s, dense)", "key", "name", "sm", *numbers, right=numbers)
    for gpu in gpus:
        table.add_row(
            gpu.key,
            gpu.name,
            str(gpu.capability),
            str(gpu.sm_count),
            f"{gpu.bandwidth_gb_s:g}",
            f"{gpu.l2_bytes / 2**20:g} MiB",
            f"{gpu.fp32_tflops:g}",
            f"{gpu.tensor_tflops.get(PrecisionClass.TF32, 0):g}",
            f"{gpu.tensor_tflops.get(PrecisionClass.FP16, 0):g}",
            f"{gpu.memory_gb:g}",
        )
    here = (
        f"installed here: {installed.name} ({installed.key})" if installed is not None else "no GPU is installed here"
    )
    return Group(table, Text(here))
