"""Finished runs: found again without a search, and what was tuned under other versions offered to be retried."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from tilewright.search.effort import EFFORTS, Effort
from tilewright.search.keys import task_key
from tilewright.search.opening import Memory
from tilewright.search.records import RunRecord, canonical, decode_study
from tilewright.search.store import StoreError
from tilewright.search.versions import versions
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.study import Study, Trial

#: Efforts from the least to the most.
_ORDER = tuple(EFFORTS)
#: What was tuned elsewhere is retried in so many forms at most.
_MOST_RETRIED = 3


def recalled_run(memory: Memory, task: Task, effort: Effort, timing: str, *, graphs: bool = False) -> Study | None:
    """The study of a finished run for this task, GPU and these versions, of at least this effort; None for none."""
    for record in _runs(memory, task, timing, graphs):
        if record.versions != canonical(versions()) or not _is_enough(record.effort, effort.name):
            continue
        study = decode_study(record.study)
        if study is not None:
            return replace(
                study,
                task=task.name,
                given=None if study.given is None else _resumed(study.given),
                trials=tuple(_resumed(trial) for trial in study.trials),
                notes=(*memory.notes, _found_again(record), *study.notes),
            )
    return None


def tuned_elsewhere(memory: Memory, task: Task, timing: str, *, graphs: bool = False) -> tuple[Candidate, ...]:
    """What other versions found best for this task, the newest first: candidates like any other, to be tried first."""
    found: dict[str, Candidate] = {}
    for record in _runs(memory, task, timing, graphs):
        candidate = record.candidate
        if record.versions == canonical(versions()) or candidate is None:
            continue
        described = f"{candidate.description} (found {_day(record)} under other versions, retried)"
        found.setdefault(candidate.digest, replace(candidate, description=described))
    return tuple(found.values())[:_MOST_RETRIED]


def remember_run(memory: Memory, task: Task, study: Study, timing: str) -> None:
    """Keep a finished run; one that cannot be kept is told in the memory's notes when it settles.

    One that found nothing because nothing could be timed or tried is not finished: it is searched again.
    """
    best = study.best
    if memory.store is None or (best is None and (study.baseline is None or not study.trials)):
        return
    of_task = task_key(task, timing, graphs=study.graphs)
    tried_under = canonical(study.versions)
    record = RunRecord(
        key=f"{of_task}-{tried_under}-{study.effort}",
        task_key=of_task,
        task=task.name,
        gpu=task.gpu.key,
        versions=tried_under,
        finished_at=time.time(),
        effort=study.effort,
        timing=timing,
        best_ms=best.timing.time_ms if best is not None and best.timing is not None else None,
        best=canonical(best.candidate if best is not None else None),
        study=canonical(replace(study, exchanges=())),
    )
    try:
        memory.store.put_record(record)
    except StoreError:
        return  # it waits in the store, and is told when the memory settles


def _runs(memory: Memory, task: Task, timing: str, graphs: bool) -> tuple[RunRecord, ...]:
    try:
        return memory.runs(task_key(task, timing, graphs=graphs))
    except StoreError as error:
        memory.notes.append(f"earlier runs could not be read: {error.what}")
        return ()


def _is_enough(had: str, wanted: str) -> bool:
    return had in _ORDER and _ORDER.index(had) >= _ORDER.index(wanted)


def _resumed(trial: Trial) -> Trial:
    return replace(trial, resumed=True, seconds=0.0)


def _found_again(record: RunRecord) -> str:
    return f"found again in the study, as searched for on {_day(record)} at effort {record.effort}; nothing was run"


def _day(record: RunRecord) -> str:
    return datetime.fromtimestamp(record.finished_at, UTC).strftime("%Y-%m-%d")
