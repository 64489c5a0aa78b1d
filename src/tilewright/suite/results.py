"""What became of each task of a suite, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tilewright.values.study import Study

SCHEMA = "tilewright.suite"
SCHEMA_VERSION = 1


class Fate(StrEnum):
    """What became of a task."""

    IMPROVED = "improved"  #: a verified module was written
    UNCHANGED = "nothing better"  #: the search ended without one
    BAD_INPUT = "bad input"  #: the task's files are at fault
    FAILED = "failed"  #: an error of ours, or every worker that took it was lost


@dataclass(frozen=True)
class SuiteResult:
    """One line of a suite's table.

    Attributes:
        task: its name.
        key: what the result depends on (`SuiteTask.key`).
        fate: what became of it.
        reason: why, one line; empty where there is nothing to say.
        gpu: the target.
        timing_kind: `measured` or `modelled`; empty where there are no times.
        baseline_ms, best_ms: the fastest right thing before the search, and the result, milliseconds.
        speed_up: the first over the second.
        speed_of_light: the floor's time over the result's.
        seconds: wall time of its run.
    """

    task: str
    key: str
    fate: Fate
    reason: str = ""
    gpu: str = ""
    timing_kind: str = ""
    baseline_ms: float | None = None
    best_ms: float | None = None
    speed_up: float | None = None
    speed_of_light: float | None = None
    seconds: float = 0.0

    @property
    def is_final(self) -> bool:
        """Another run with the same key would end the same way."""
        return self.fate is not Fate.FAILED


def result_of(task: str, key: str, study: Study, seconds: float) -> SuiteResult:
    """The line of a finished run."""
    best = study.best
    timing = best.timing if best is not None else None
    last = study.trials[-1].reason if study.trials else "nothing was proposed"
    return SuiteResult(
        task,
        key,
        Fate.UNCHANGED if best is None else Fate.IMPROVED,
        last if best is None else best.reason,
        study.gpu,
        study.timing_kind,
        study.baseline.time_ms if study.baseline is not None else None,
        timing.time_ms if timing is not None else None,
        study.speed_up,
        study.fraction_of_speed_of_light(timing),
        seconds,
    )


_RESULTS = TypeAdapter(list[SuiteResult])


def read_results(path: Path) -> Mapping[str, SuiteResult]:
    """Key -> result of the final ones of an earlier run; none where there is no readable file."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        found = _RESULTS.validate_python(report["results"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, ValidationError):
        return {}
    return {result.key: result for result in found if result.is_final}


def as_report(results: Mapping[str, SuiteResult], command: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object of a suite; `results` by task name."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "versions": dict(versions),
        "results": [asdict(results[name]) for name in sorted(results)],
    }
