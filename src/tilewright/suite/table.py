"""A suite's table: CSV, HTML, and the terminal's."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import TYPE_CHECKING

from jinja2 import Environment

from tilewright.suite.results import Fate, SuiteResult

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = ("task", "outcome", "before, ms", "ours, ms", "speed-up", "of speed of light", "seconds")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tilewright suite</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; color: #1b1b1b; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
p.reason { margin: 0; color: #555; }
</style></head><body>
<h1>{{ improved }} of {{ rows | length }} tasks improved{% if mean %}, {{ mean }} times as fast
in the geometric mean{% endif %}</h1>
<p>Times are {{ kinds }}{% if gpus %} for {{ gpus }}{% endif %}.</p>
<div class="scroll"><table><thead><tr>{% for heading in headings %}<th>{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
<h2>Reasons</h2>
{% for result in results %}
<p class="reason"><b>{{ result.task }}</b>: {{ result.reason or result.fate }}</p>{% endfor %}
</body></html>
"""


def csv_text(results: Sequence[SuiteResult]) -> str:
    """All fields, a line for each task."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(SuiteResult)])
    writer.writerows([["" if cell is None else cell for cell in astuple(result)] for result in results])
    return text.getvalue()


def page(results: Sequence[SuiteResult]) -> str:
    """One file that opens offline."""
    kinds = sorted({result.timing_kind for result in results if result.timing_kind})
    gpus = sorted({result.gpu for result in results if result.gpu})
    mean = mean_speed_up(results)
    return (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            headings=_HEADINGS,
            rows=[_row(result) for result in results],
            results=results,
            improved=sum(result.fate is Fate.IMPROVED for result in results),
            mean=f"{mean:.2f}" if mean is not None else "",
            kinds=" and ".join(kinds) or "not known",
            gpus=", ".join(gpus),
        )
    )


def mean_speed_up(results: Sequence[SuiteResult]) -> float | None:
    """Geometric mean over the improved tasks; None where none has one."""
    gains = [result.speed_up for result in results if result.fate is Fate.IMPROVED and result.speed_up]
    return math.exp(sum(math.log(gain) for gain in gains) / len(gains)) if gains else None


def view(results: Sequence[SuiteResult]) -> Table:
    """The table for a terminal."""
    from rich.table import Table

    kinds = sorted({result.timing_kind for result in results if result.timing_kind})
    table = Table(title=f"times are {' and '.join(kinds)}" if kinds else None, title_justify="left")
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if number < 2 else "right", overflow="fold")
    for result in results:
        table.add_row(*_row(result))
    return table


def _row(result: SuiteResult) -> tuple[str, ...]:
    share = "" if result.speed_of_light is None else f"{100 * result.speed_of_light:.0f} %"
    gain = "" if result.speed_up is None else f"{result.speed_up:.2f}"
    times = ("" if time is None else f"{time:.4g}" for time in (result.baseline_ms, result.best_ms))
    return (result.task, str(result.fate), *times, gain, share, f"{result.seconds:.0f}")
