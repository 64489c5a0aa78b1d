"""`tilewright verify` and `tilewright explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli import options
from tilewright.cli.output import progress_bar, show, show_json
from tilewright.errors import ExitCode


def verify(
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE", help="Python file with Model, get_inputs and get_init_inputs.", show_default=False
        ),
    ],
    candidate: Annotated[
        Path,
        typer.Argument(
            metavar="CANDIDATE",
            help="Python file with ModelNew, a model's reply with one python block, or a document.",
            show_default=False,
        ),
    ],
    init: options.Init = None,
    inputs: options.Inputs = None,
    gpu: options.GpuName = None,
    precision: options.Precision = None,
    effort: options.Effort = options.EffortName.QUICK,
    rules: options.RuleSet = options.Rules.STANDARD,
    as_json: options.Json = False,
) -> None:
    """Put any ModelNew through the gate.

    Exit code 0: accepted; 1: rejected, the reasons are printed; 2: bad input.
    """
    from tilewright.api import verify_files
    from tilewright.report.data import verdict_report
    from tilewright.search.effort import find_effort
    from tilewright.search.progress import Step

    with progress_bar(f"verifying {candidate.name}") as progress:
        task, read, verdict = verify_files(
            reference,
            candidate,
            init,
            inputs,
            gpu,
            precision,
            rules is options.Rules.STRICT,
            find_effort(effort).gate,
            lambda message: progress(Step(message, 0.0)),
        )
    if as_json:
        show_json(verdict_report(task, read, verdict, str(candidate)))
    else:
        from tilewright.report.terminal import verdict_view

        show(verdict_view(verdict, candidate.name))
    raise typer.Exit(ExitCode.OK if verdict.accepted else ExitCode.REJECTED)


def explain(
    check: Annotated[
        str | None,
        typer.Argument(
            metavar="CHECK", help="Name of a check or of a rule of the diagnosis; without it, all are listed."
        ),
    ] = None,
) -> None:
    """Say what a check of the gate, or a rule of the diagnosis, does and why it exists."""
    from tilewright.diagnosis import explain as names

    typer.echo("\n".join(names.all_names()) if check is None else names.explain(check))
