"""`report.html`: one file, no external resources, nothing computed that is not in the study."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from tilewright.report.summary import bytes_text, error_text, fraction_text, operations_text, rows, sentence, time_text
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
        time=time_text, error=error_text, fraction=fraction_text, bytes=bytes_text, operations=operations_text
    )
    return environment.get_template("report.html.j2")


def study_page(study: Study) -> str:
    """The page of a run of `optimize`, as HTML."""
    formatter = HtmlFormatter(nowrap=True)
    shown = study.best.candidate.source if study.best is not None else None
    return _template().render(
        study=study,
        sentence=sentence(study),
        rows=rows(study),
        judged=study.best or study.given,
        code=highlight(shown, PythonLexer(), formatter) if shown is not None else None,
        code_css=HtmlFormatter(style="default").get_style_defs(".code"),
        against="float64" if study.oracle == "reference" else "the given code",
    )
