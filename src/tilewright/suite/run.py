"""Runs a folder of tasks, here or on a fleet; what is finished is not done again."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.api import optimize_file
from tilewright.errors import SourceLocation, TilewrightError
from tilewright.report.files import MODEL_NAME, OutputError, check_writable, write_atomically
from tilewright.search.fleet import Fleet, FleetError
from tilewright.search.studies import export_study, import_study
from tilewright.search.versions import versions
from tilewright.suite.results import Fate, SuiteResult, as_report, read_results, result_of
from tilewright.suite.table import csv_text, page
from tilewright.suite.tasks import SuiteTask, find_tasks

#: The files of a suite's results.
REPORT, CSV, PAGE, STUDY = "suite.json", "suite.csv", "suite.html", "study.sqlite"
_FILES = (MODEL_NAME, "report.json", "report.html")

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Settings:
    """How every task of a suite is run; as `tilewright.optimize_file` takes them."""

    gpu: str | None = None
    stage: str | None = None
    precision: str | None = None
    effort: str = "quick"

    def as_dict(self) -> dict[str, str | None]:
        """By name."""
        return {"gpu": self.gpu, "stage": self.stage, "precision": self.precision, "effort": self.effort}


@dataclass(frozen=True)
class Parcel:
    """What a worker sends back of one task.

    Attributes:
        result: its line.
        files: name -> text of what belongs into its folder.
        records: the export of its study, JSON text; empty where there is none.
    """

    result: SuiteResult
    files: Mapping[str, str]
    records: str = ""


def run_suite(
    folder: Path,
    out: Path,
    settings: Settings,
    *,
    fleet: Fleet | None = None,
    tell: Tell | None = None,
    command: str = "",
) -> tuple[SuiteResult, ...]:
    """Optimise every task of a folder; each one's results in a folder of its name, a table of all in `out`.

    The table is written again after every task. Tasks that an earlier run finished with the same files, settings
    and versions are taken from it.

    Args:
        folder: holds the tasks (`find_tasks`).
        out: of the results.
        settings: of every run.
        fleet: workers; without one the tasks are run here, one after another, into one study.
        tell: told after every task: how many are done, of how many, and the line of the last.
        command: the command that repeats the run.

    Raises:
        EmptySuiteError: there is no task.
        OutputError: `out` cannot be written.
    """
    tasks = find_tasks(folder)
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    keys = {task.name: task.key(settings.as_dict(), versions()) for task in tasks}
    known = read_results(out / REPORT)
    done = {task.name: known[keys[task.name]] for task in tasks if keys[task.name] in known}
    waiting = [task for task in tasks if task.name not in done]
    say = tell or (lambda count, of, line: None)
    say(len(done), len(tasks), f"{len(done)} tasks were finished before" if done else "")
    for parcel in _run_all(waiting, keys, out, settings, fleet):
        done[parcel.result.task] = parcel.result
        _keep(parcel, out)
        _write_tables(done, out, command)
        say(len(done), len(tasks), f"{parcel.result.task}: {parcel.result.fate}")
    _write_tables(done, out, command)
    return tuple(done[name] for name in sorted(done))


def _run_all(
    tasks: Sequence[SuiteTask], keys: Mapping[str, str], out: Path, settings: Settings, fleet: Fleet | None
) -> Iterator[Parcel]:
    if fleet is None:
        for task in tasks:
            yield Parcel(_run_here(task, keys[task.name], out / task.name, out / STUDY, settings), {})
        return
    jobs = [(task.name, keys[task.name], _texts(task), settings) for task in tasks]
    for number, parcel in fleet.each(_run_away, jobs):
        name = tasks[number].name
        if isinstance(parcel, FleetError):
            parcel = Parcel(SuiteResult(name, keys[name], Fate.FAILED, parcel.what), {})
        yield parcel


def _run_here(task: SuiteTask, key: str, out: Path, study: Path, settings: Settings) -> SuiteResult:
    """One task in this process; whatever is wrong with it, the next one has its turn."""
    start = time.monotonic()
    try:
        found = optimize_file(task.path, reference=task.reference, out=out, study=study, **settings.as_dict())  # type: ignore[arg-type]
    except OutputError:
        raise
    except TilewrightError as error:
        return SuiteResult(task.name, key, Fate.BAD_INPUT, str(error), seconds=time.monotonic() - start)
    except Exception as error:
        reason = f"unexpected {type(error).__name__}: {error}"
        return SuiteResult(task.name, key, Fate.FAILED, reason, seconds=time.monotonic() - start)
    return result_of(task.name, key, found, time.monotonic() - start)


# -- on a fleet -----------------------------------------------------------------------------------------------


def _texts(task: SuiteTask) -> dict[str, str]:
    """The task's files as they travel: name -> text, the document or Python file first."""
    files = [task.path, *([task.reference] if task.reference is not None else [])]
    return {path.name: path.read_text(encoding="utf-8", errors="surrogateescape") for path in files}


def _run_away(name: str, key: str, texts: Mapping[str, str], settings: Settings) -> Parcel:
    """On a worker: the task in a folder of its own, whose contents are sent back."""
    with tempfile.TemporaryDirectory(prefix="tilewright-suite-") as place:
        here = Path(place)
        for file, text in texts.items():
            (here / file).write_text(text, encoding="utf-8", errors="surrogateescape")
        paths = [here / file for file in texts]
        task = SuiteTask(name, paths[0], paths[1] if len(paths) > 1 else None)
        result = _run_here(task, key, here / "out", here / STUDY, settings)
        files = {file: (here / "out" / file).read_text() for file in _FILES if (here / "out" / file).is_file()}
        return Parcel(result, files, _records(here / STUDY))


def _records(study: Path) -> str:
    try:
        return json.dumps(export_study(study))
    except TilewrightError:
        return ""


# -- what is kept ---------------------------------------------------------------------------------------------


def _keep(parcel: Parcel, out: Path) -> None:
    """Write what a worker sent: its files, and its trials into the suite's study."""
    folder = out / parcel.result.task
    try:
        if parcel.files:
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in parcel.files.items():
            write_atomically(folder / name, text)
        if parcel.records:
            with tempfile.TemporaryDirectory(prefix="tilewright-suite-") as place:
                file = Path(place) / "study.json"
                file.write_text(parcel.records, encoding="utf-8")
                import_study(out / STUDY, file)
    except OSError as error:
        raise _unwritable(out, error) from None


def _write_tables(done: Mapping[str, SuiteResult], out: Path, command: str) -> None:
    results = [done[name] for name in sorted(done)]
    report: dict[str, Any] = as_report(done, command, versions())
    try:
        write_atomically(out / REPORT, json.dumps(report, indent=2) + "\n")
        write_atomically(out / CSV, csv_text(results))
        write_atomically(out / PAGE, page(results))
    except OSError as error:
        raise _unwritable(out, error) from None


def _unwritable(out: Path, error: OSError) -> OutputError:
    what = f"the results cannot be written: {error.strerror or error}"
    return OutputError(what, where=SourceLocation(str(out)))
