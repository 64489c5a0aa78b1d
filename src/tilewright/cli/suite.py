"""`tilewright suite`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli import options
from tilewright.cli.output import show, show_json
from tilewright.errors import ExitCode


def suite(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of tasks.", show_default=False)],
    gpu: options.GpuName = None,
    stage: options.Stage = None,
    precision: options.Precision = None,
    effort: options.Effort = options.EffortName.QUICK,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the results; default: runs/ and DIR's name.")
    ] = None,
    fleet: options.FleetOption = None,
    workers: options.Workers = None,
    as_json: options.Json = False,
) -> None:
    """Optimise every task of a folder: documents, with their references beside them, and Python files.

    Tasks that are finished are not done again. Writes suite.json, suite.csv and suite.html, and a folder for each
    task. Exit code 0: every task has a verified module; 1: some have none; 2: bad input.
    """
    from tilewright.search.versions import versions
    from tilewright.suite.results import Fate, as_report
    from tilewright.suite.run import Settings, run_suite
    from tilewright.suite.table import view

    place = out or Path("runs") / folder.resolve().name
    command = shlex.join(["tilewright", *sys.argv[1:]])
    settings = Settings(gpu, stage.value if stage else None, precision.value if precision else None, effort.value)
    with options.fleet_of(fleet, workers) as workforce:
        results = run_suite(folder, place, settings, fleet=workforce, tell=_tell, command=command)
    if as_json:
        show_json(as_report({result.task: result for result in results}, command, versions()))
    else:
        show(view(results))
        typer.echo(f"written to {place}: suite.json, suite.csv, suite.html")
    improved = all(result.fate is Fate.IMPROVED for result in results)
    raise typer.Exit(ExitCode.OK if improved else ExitCode.REJECTED)


def _tell(count: int, of: int, line: str) -> None:
    typer.echo(f"[{count}/{of}] {line}".rstrip(), err=True)
