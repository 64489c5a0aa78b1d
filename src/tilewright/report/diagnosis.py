"""A diagnosis for the terminal, and its figures in words."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tilewright.report.summary import bytes_text, fraction_text, operations_text
from tilewright.values.diagnosis import Diagnosis, DiagnosisReport, Evidence, ForwardPart


def diagnosis_view(report: DiagnosisReport) -> Group:
    """A run of `diagnose`: the first causes, where the time goes, each cause with its evidence."""
    parts: list[RenderableType] = [Text(f"{report.task} on the {report.gpu}: {report.summary}", style="bold")]
    if report.parts:
        parts.append(parts_table(report))
    for number, one in enumerate(report.diagnoses, start=1):
        parts.extend(_one(number, one))
    parts.extend(Text(f"note: {note}", style="dim") for note in report.notes)
    return Group(*parts)


def parts_table(report: DiagnosisReport) -> Table:
    """Where the time of the forward pass goes, step by step."""
    table = Table(title="where the time goes", title_justify="left", title_style="bold")
    for column in ("step", "calls", "time", "of the pass", "measured or modelled", "bound by"):
        right = column in ("calls", "time", "of the pass")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for part in report.parts:
        name = f"{part.name} (PyTorch)" if part.native else part.name
        share = fraction_text(part_share(part, report))
        table.add_row(escape(name), str(part.calls), part_time(part), share, part.label or "-", part.limit or "-")
    return table


def part_share(part: ForwardPart, report: DiagnosisReport) -> float | None:
    """A step's part of the forward pass, 0 to 1."""
    return None if part.time_ms is None or not report.total_ms else part.time_ms / report.total_ms


def part_time(part: ForwardPart) -> str:
    """A step's time for people."""
    return "-" if part.time_ms is None else f"{part.time_ms:.4g} ms"


def _one(number: int, one: Diagnosis) -> Iterator[RenderableType]:
    cost = cost_text(one)
    title = Text(f"\n{number}. {one.title}", style="bold red" if one.wrong else "bold")
    if cost:
        title.append(f"  ({cost})", style="yellow")
    yield title
    yield Padding(Text(one.message), (0, 0, 0, 3))
    for item in one.evidence:
        yield Padding(Text(evidence_text(item), style="dim"), (0, 0, 0, 5))
    yield Padding(Text(f"-> {one.remedy}", style="green"), (0, 0, 0, 3))


def cost_text(one: Diagnosis) -> str:
    """What a cause costs: `up to 1.2 ms modelled, 10 % of the forward pass`; empty where nobody can tell."""
    if one.wrong:
        return "wrong results"
    if one.cost_ms is None:
        return ""
    share = "" if one.share is None else f", {100 * one.share:.2g} % of the forward pass"
    return f"up to {one.cost_ms:.3g} ms {one.cost_label}{share}"


def evidence_text(item: Evidence) -> str:
    """A figure beside its threshold and the source of that."""
    text = f"{item.name}: {quantity_text(item.value, item.unit)} ({item.label})"
    if item.threshold is not None:
        text += f", threshold {item.relation} {quantity_text(item.threshold, item.unit)} ({item.source})"
    return text


def quantity_text(value: float, unit: str) -> str:
    """A number with its unit, for people."""
    if unit == "bytes":
        return bytes_text(value)
    if not unit and abs(value) >= 1e4:
        return operations_text(value)
    return f"{value:.4g} {unit}".rstrip()
