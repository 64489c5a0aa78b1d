"""`tilewright diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli import options
from tilewright.cli.output import progress_bar, show, show_json


def diagnose(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A document, a Python file with ModelNew, or one with Model alone (looked at in eager PyTorch).",
            show_default=False,
        ),
    ],
    reference: options.Reference = None,
    init: options.Init = None,
    inputs: options.Inputs = None,
    ncu: Annotated[
        Path | None,
        typer.Option("--ncu", metavar="FILE", help="A profile from Nsight Compute: --csv, .ncu-rep, or JSON."),
    ] = None,
    gpu: options.GpuName = None,
    precision: options.Precision = None,
    as_json: options.Json = False,
) -> None:
    """Say what holds code back, most important first: evidence, cost, and what would change it.

    Exit code 0: answered; 2: bad input.
    """
    from tilewright.api import diagnose as diagnose_path
    from tilewright.report.data import diagnosis_report
    from tilewright.search.progress import Step

    with progress_bar(f"looking at {path.name}") as progress:
        report = diagnose_path(
            path,
            reference=reference,
            init=init,
            inputs=inputs,
            ncu=ncu,
            gpu=gpu,
            precision=precision,
            progress=lambda message: progress(Step(message, 0.0)),
        )
    if as_json:
        show_json(diagnosis_report(report))
    else:
        from tilewright.report.diagnosis import diagnosis_view

        show(diagnosis_view(report))
