"""`report.html`: one file, no external resources, nothing computed that is not in the study."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import DiffLexer, PythonLexer

from tilewright.report.diagnosis import cost_text, quantity_text
from tilewright.report.metrics import metric_tables
from tilewright.report.plots import Bar, numbered_points, roofline, stacked_bars, subject_class
from tilewright.report.summary import (
    Row,
    bound_text,
    bytes_text,
    error_text,
    exchange_rows,
    fraction_text,
    left_out,
    operations_text,
    rows,
    sentence,
    spent_text,
    time_text,
)
from tilewright.values.study import Study


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("tilewright.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        time=time_text,
        bound=bound_text,
        error=error_text,
        fraction=fraction_text,
        bytes=bytes_text,
        operations=operations_text,
        cost=cost_text,
        quantity=quantity_text,
        subject=subject_class,
    )
    return environment.get_template("report.html.j2")


def study_page(study: Study) -> str:
    """The page of a run of `optimize`, as HTML."""
    best = study.best.candidate.source if study.best is not None else None
    given = study.given.candidate.source if study.given is not None else None
    points = numbered_points(study.sights, study.ceilings) if study.ceilings is not None else ()
    table = rows(study)
    return _template().render(
        study=study,
        sentence=sentence(study),
        spent=spent_text(study),
        left_out=left_out(study),
        rows=table,
        bars=_time_bars(table),
        floor_percent=_floor_percent(study, table),
        stacks=stacked_bars(study.sights),
        points=points,
        roofline=roofline(points, study.ceilings) if points and study.ceilings is not None else None,
        metrics=metric_tables(study.sights),
        exchanges=exchange_rows(study.exchanges),
        judged=study.best or study.given,
        code=_highlighted(best, PythonLexer()) if best is not None else None,
        difference=_highlighted(_difference(given, best), DiffLexer()) if best and given else None,
        style=Markup(_style()),
        against="float64" if study.oracle == "reference" else "the given code",
    )


@cache
def _style() -> str:
    """The page's own style sheet, and Pygments' for both colour schemes."""
    own = resources.files("tilewright.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    light = HtmlFormatter(style="default").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".code")
    return f"{own}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _highlighted(text: str, lexer: PythonLexer | DiffLexer) -> Markup:
    return Markup(highlight(text, lexer, HtmlFormatter(nowrap=True)))


def _difference(before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "given code", "model_new.py", lineterm="", n=2
    )
    return "\n".join(lines) + "\n"


def _time_bars(table: Sequence[Row]) -> tuple[Bar, ...]:
    """Times as bars in one scale."""
    timed = [(row, row.timing.time_ms) for row in table if row.timing is not None]
    longest = max((time for _, time in timed), default=0.0) or 1.0
    return tuple(
        Bar(
            row.name,
            100 * time / longest,
            f"{time_text(row.timing)}, {fraction_text(row.speed_of_light_fraction)} of the speed of light"
            if row.speed_of_light_fraction is not None
            else time_text(row.timing),
            subject_class(row.name),
        )
        for row, time in timed
    )


def _floor_percent(study: Study, table: Sequence[Row]) -> float | None:
    """Where the speed of light lies on the bars' scale."""
    longest = max((row.timing.time_ms for row in table if row.timing is not None), default=0.0)
    if study.speed_of_light is None or not longest:
        return None
    return min(100.0, 100 * study.speed_of_light.time_ms / longest)
