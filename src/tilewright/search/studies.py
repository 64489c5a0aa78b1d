"""A study file looked at from outside: its tasks, their trials and results; what leaves it, enters it, and goes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilewright.errors import TilewrightError, path_location
from tilewright.search.exchanges import export_exchanges
from tilewright.search.opening import default_store_path, mend
from tilewright.search.records import (
    Record,
    RunRecord,
    TrialRecord,
    canonical,
    decode_evaluation,
    record_as_json,
    record_from_json,
)
from tilewright.search.store import StoreError, StudyStore
from tilewright.search.versions import versions
from tilewright.values.serialise import JsonValue

#: Schema of a portable export.
EXPORT_SCHEMA = "tilewright.study"
EXPORT_VERSION = 1

_DAY_S = 86400.0


class NoSuchTaskError(TilewrightError):
    """A study holds nothing for a task of that name."""


class ImportFileError(TilewrightError):
    """A file is no export of a study."""


@dataclass(frozen=True)
class TaskSummary:
    """What a study holds for one task on one GPU.

    Attributes:
        task: its name.
        task_key: what tells it from another task of the same name, 12 hex digits.
        gpu: the target's key.
        trials: finished ones.
        runs: finished ones.
        effort: of the last run; empty where none was finished.
        best_ms: time of the last run's result; None where there is none.
        timing: `measured` or `modelled`; empty where no run was finished.
        finished_at: of the last trial or run, seconds since 1970, UTC.
        current: the last run was made under the versions of this machine.
    """

    task: str
    task_key: str
    gpu: str
    trials: int
    runs: int
    effort: str
    best_ms: float | None
    timing: str
    finished_at: float
    current: bool


@dataclass(frozen=True)
class TrialSummary:
    """One finished trial as a study remembers it.

    Attributes:
        number: counts from 1 in the order of their ends.
        digest: the candidate's.
        what: what was tried.
        schedule: of each kernel, where it is known.
        verdict: `accepted`, `rejected` or `not judged`.
        why: the first reason of a rejection.
        time_ms: measured where it was, else modelled; only of what was accepted where it was measured.
        timing: which of both; empty where there is none.
        finished_at: seconds since 1970, UTC.
    """

    number: int
    digest: str
    what: str
    schedule: str
    verdict: str
    why: str
    time_ms: float | None
    timing: str
    finished_at: float


@contextlib.contextmanager
def open_study(path: Path | None) -> Iterator[StudyStore]:
    """A study that exists, the user's own if None.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    place = path or default_store_path()
    if not place.is_file():
        raise StoreError("there is no such study", where=path_location(place))
    mend(place)
    store = StudyStore(place)
    try:
        yield store
    finally:
        store.close()


def list_tasks(path: Path | None) -> tuple[TaskSummary, ...]:
    """What a study holds, the tasks worked on last first.

    Raises:
        StoreError: as `open_study` does.
    """
    with open_study(path) as store:
        trials = _by_task(store.records(TrialRecord.TABLE))
        runs = _by_task(store.records(RunRecord.TABLE))
    found = [_summary(key, trials.get(key, []), runs.get(key, [])) for key in {*trials, *runs}]
    return tuple(sorted(found, key=lambda one: -one.finished_at))


def _by_task(records: Sequence[Record]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for record in sorted(records, key=lambda record: record.finished_at):
        found.setdefault(record.task_key or f"{record.task} {record.gpu}", []).append(record)
    return found


def _summary(key: str, trials: Sequence[TrialRecord], runs: Sequence[RunRecord]) -> TaskSummary:
    last_run = runs[-1] if runs else None
    ends: list[Record] = [*trials[-1:], *runs[-1:]]
    last = max(ends, key=lambda record: record.finished_at)
    return TaskSummary(
        task=last.task,
        task_key=key[:12],
        gpu=last.gpu,
        trials=len(trials),
        runs=len(runs),
        effort=last_run.effort if last_run is not None else "",
        best_ms=last_run.best_ms if last_run is not None else None,
        timing=last_run.timing if last_run is not None else "",
        finished_at=last.finished_at,
        current=last_run is not None and last_run.versions == canonical(versions()),
    )


def show_task(path: Path | None, task: str) -> dict[str, JsonValue]:
    """Everything that a study holds for a task: its trials, its runs, and the source of its last result.

    Args:
        path: the study; the user's own if None.
        task: its name, or the beginning of its key.

    Raises:
        StoreError: as `open_study` does.
        NoSuchTaskError: there is no such task.
    """
    from tilewright.values.serialise import as_json

    with open_study(path) as store:
        trials = [one for one in store.records(TrialRecord.TABLE, "ORDER BY finished_at, key") if _is_of(one, task)]
        runs = [one for one in store.records(RunRecord.TABLE, "ORDER BY finished_at, key") if _is_of(one, task)]
        known = {one.task for table in (TrialRecord.TABLE, RunRecord.TABLE) for one in store.records(table)}
    if not trials and not runs:
        names = ", ".join(sorted(known)) or "none"
        raise NoSuchTaskError(f"the study holds nothing for {task!r}", hint=f"its tasks: {names}")
    last = next((one for one in reversed(runs) if isinstance(one, RunRecord)), None)
    best = last.candidate if last is not None else None
    return {
        "task": (runs or trials)[0].task,
        "trials": [
            as_json(_trial(number, one)) for number, one in enumerate(trials, start=1) if isinstance(one, TrialRecord)
        ],
        "runs": [
            {
                "effort": one.effort,
                "timing": one.timing,
                "gpu": one.gpu,
                "best_ms": one.best_ms,
                "versions": json.loads(one.versions),
                "finished_at": one.finished_at,
            }
            for one in runs
            if isinstance(one, RunRecord)
        ],
        "best": as_json(best) if best is not None else None,
    }


def _is_of(record: Record, task: str) -> bool:
    return record.task == task or (len(task) >= 6 and record.task_key.startswith(task))


def _trial(number: int, record: TrialRecord) -> TrialSummary:
    known = decode_evaluation(record.evaluation)
    verdict = known.verdict if known is not None else None
    accepted = verdict is not None and verdict.accepted
    timing = known.prediction if known is not None else None
    shown = known.measured if known is not None and accepted and known.measured is not None else timing
    return TrialSummary(
        number=number,
        digest=record.digest,
        what=record.description,
        schedule=record.schedule,
        verdict="not judged" if verdict is None else "accepted" if accepted else "rejected",
        why=verdict.reasons[0].message if verdict is not None and not accepted else "",
        time_ms=shown.time_ms if shown is not None else None,
        timing=shown.label if shown is not None else "",
        finished_at=record.finished_at,
    )


def export_study(path: Path | None, task: str | None = None, *, best_only: bool = False) -> dict[str, JsonValue]:
    """A study as portable JSON: another machine imports it, and retries what was tuned under other versions.

    Args:
        path: the study; the user's own if None.
        task: one task only, by its name or the beginning of its key.
        best_only: results of runs alone, no trials and no exchanges.

    Raises:
        StoreError: as `open_study` does.
        NoSuchTaskError: there is no such task.
    """
    with open_study(path) as store:
        tables = (RunRecord.TABLE,) if best_only else (TrialRecord.TABLE, RunRecord.TABLE)
        records = [one for table in tables for one in store.records(table, "ORDER BY finished_at, key")]
        place = store.path
    if task is not None:
        records = [one for one in records if _is_of(one, task)]
        if not records:
            raise NoSuchTaskError(f"the study holds nothing for {task!r}", hint="tilewright study list")
    return {
        "schema": EXPORT_SCHEMA,
        "schema_version": EXPORT_VERSION,
        "records": [record_as_json(_without_study(one) if best_only else one) for one in records],
        "exchanges": [] if best_only or task is not None else export_exchanges(place),
    }


def _without_study(record: Record) -> Record:
    """A result alone: its candidate travels, the trials that led to it do not."""
    return replace(record, study="null") if isinstance(record, RunRecord) else record


def import_study(path: Path | None, file: Path) -> int:
    """Take an export, or the lines that a run laid down, into a study; returns how many records came.

    Args:
        path: the study; the user's own if None. It is made where there is none.
        file: what `export_study` wrote, or lines of records.

    Raises:
        ImportFileError: it is neither.
        StoreError: the study cannot be written.
    """
    records = _read_records(file)
    place = path or default_store_path()
    mend(place)
    store = StudyStore(place)
    try:
        for record in records:
            store.put_record(record)
    finally:
        store.close()
    return len(records)


def _read_records(file: Path) -> list[Record]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ImportFileError(f"it cannot be read: {error}", where=path_location(file)) from None
    found = [record_from_json(item) for item in _items(text, file)]
    records = [record for record in found if record is not None]
    if not records:
        raise ImportFileError("there is no record of a study in it", where=path_location(file))
    return records


def _items(text: str, file: Path) -> list[Any]:
    """The objects of an export, or of lines."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        items = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                items.append(json.loads(line))
        return items
    if isinstance(whole, dict) and isinstance(whole.get("records"), list):
        if whole.get("schema") != EXPORT_SCHEMA or not isinstance(whole.get("schema_version"), int):
            raise ImportFileError("it is no export of a study", where=path_location(file))
        if whole["schema_version"] > EXPORT_VERSION:
            raise ImportFileError("it was written by a newer tilewright", where=path_location(file))
        return list(whole["records"])
    return [whole]


def prune_study(
    path: Path | None, *, other_versions: bool = True, older_than_days: float | None = None, task: str | None = None
) -> Mapping[str, int]:
    """Forget what is of no use any more; results of runs stay unless they are older than asked for.

    Args:
        path: the study; the user's own if None.
        other_versions: trials that were made under other versions than this machine's.
        older_than_days: trials and runs that ended longer ago.
        task: everything of one task, and nothing of the others.

    Returns:
        table -> how many records went.

    Raises:
        StoreError: it cannot be written.
    """
    now, here = time.time(), canonical(versions())

    def goes(record: Record) -> bool:
        if task is not None:
            return _is_of(record, task)
        if older_than_days is not None and record.finished_at < now - older_than_days * _DAY_S:
            return True
        return other_versions and isinstance(record, TrialRecord) and record.versions != here

    gone: dict[str, int] = {}
    with open_study(path) as store:
        for table in (TrialRecord.TABLE, RunRecord.TABLE):
            keys = [record.key for record in store.records(table) if goes(record)]
            if keys:
                store.delete(table, keys)
            gone[table] = len(keys)
    return gone
