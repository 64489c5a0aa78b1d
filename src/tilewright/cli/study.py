"""`tilewright study`: what was tried and found, listed, shown, carried to another machine, and pruned."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilewright.cli import options
from tilewright.cli.output import show, show_json

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    name="study",
    help="What was tried and found: list, show, export, import and prune the study store.",
    no_args_is_help=True,
)

StudyFile = Annotated[
    Path | None,
    typer.Option("--study", metavar="FILE", help="The study store; default: the one in your cache folder."),
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="A task's name, or the beginning of its key.")]


@app.command("list")
def list_command(study: StudyFile = None, as_json: options.Json = False) -> None:
    """List the tasks in a study, with their best times.

    Exit code 0: listed; 2: there is no such study.
    """
    from tilewright.api import study as ask

    found = ask("list", path=_place(study))
    if as_json:
        show_json(found)
        return
    rows = [
        (one["task"], one["task_key"], one["gpu"], one["trials"], _best(one), one["effort"], _versions(one), _when(one))
        for one in found["tasks"]
    ]
    show(_table(("task", "key", "GPU", "trials", "best", "effort", "versions", "last"), rows))


@app.command("show")
def show_command(task: TaskName, study: StudyFile = None, as_json: options.Json = False) -> None:
    """Show the trials of a task, and what they led to.

    Exit code 0: shown; 2: there is no such study, or no such task in it.
    """
    from tilewright.api import study as ask

    found = ask("show", path=_place(study), task=task)
    if as_json:
        show_json(found)
        return
    rows = [
        (one["number"], one["what"], one["schedule"], _time(one["time_ms"], one["timing"]), one["verdict"], one["why"])
        for one in found["trials"]
    ]
    show(_table(("no", "what", "schedule", "time", "verdict", "why"), rows))
    for run in found["runs"]:
        typer.echo(f"run at effort {run['effort']}, {_when(run)}: {_time(run['best_ms'], run['timing'])}")
    if found["best"] is not None:
        typer.echo(f"the last result: {found['best']['description']} (its source: --json)")


@app.command("export")
def export_command(
    study: StudyFile = None,
    task: Annotated[str | None, typer.Option("--task", metavar="TASK", help="One task only.")] = None,
    best: Annotated[bool, typer.Option("--best", help="Results alone, without the trials.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write; default: standard output.")
    ] = None,
) -> None:
    """Write a study as portable JSON; another machine retries what was tuned under other versions.

    Exit code 0: written; 2: there is no such study, or it cannot be written.
    """
    from tilewright.api import study as ask

    if out is None:
        show_json(ask("export", path=_place(study), task=task, best_only=best))
        return
    ask("export", path=_place(study), task=task, best_only=best, file=out)
    typer.echo(f"written to {out}")


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `study export` wrote.")], study: StudyFile = None
) -> None:
    """Take what was exported elsewhere into a study.

    Exit code 0: taken; 2: the file is no export, or the study cannot be written.
    """
    from tilewright.api import study as ask

    found = ask("import", path=_place(study), file=file)
    typer.echo(f"{found['records']} records taken into {found['study']}")


@app.command("prune")
def prune_command(
    study: StudyFile = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", help="Also everything older than this.", min=0.0)
    ] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="TASK", help="Everything of one task instead.")] = None,
    as_json: options.Json = False,
) -> None:
    """Forget trials that were made under other versions; results stay.

    Exit code 0: done; 2: there is no such study, or it cannot be written.
    """
    from tilewright.api import study as ask

    found = ask("prune", path=_place(study), task=task, older_than_days=older_than)
    if as_json:
        show_json(found)
        return
    typer.echo(f"forgotten: {found['forgotten']['trial']} trials, {found['forgotten']['run']} results")


def _place(study: Path | None) -> Path:
    """The study that was named, or the user's own."""
    from tilewright.search.opening import default_store_path

    return study or default_store_path()


def _table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    from rich.table import Table

    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def _time(milliseconds: float | None, timing: str) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.4g} ms {timing}"


def _best(row: dict[str, Any]) -> str:
    return _time(row["best_ms"], row["timing"])


def _versions(row: dict[str, Any]) -> str:
    if not row["effort"]:
        return "-"
    return "these" if row["current"] else "others: retried before it is trusted"


def _when(row: dict[str, Any]) -> str:
    return datetime.fromtimestamp(row["finished_at"], UTC).strftime("%Y-%m-%d %H:%M")
