"""Times of every candidate of a task, recorded on a GPU: what strategies are tested and judged by.

    python -m benchmarks.timings [--cases workloads] [--only NAME ...] [--out FILE]

Candidates are compiled on all cores, then measured in one process beside the reference, L2 cold. They do not go through
the gate: the record serves to compare strategies, not to claim a speed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cases import CASE_LISTS, Case
from benchmarks.workloads import RESULTS, cases_asked_for

SCHEMA = "tilewright/timings/1"
#: The record that tests and `python -m benchmarks.economy` read.
RECORD = RESULTS / "timings-h200.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Record; 0 where it ran, 2 for bad arguments or without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timings", description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASE_LISTS), default=["workloads"], help="lists of cases")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="cases whose name starts so")
    parser.add_argument("--out", type=Path, default=RECORD, metavar="FILE", help=f"the record (default: {RECORD.name})")
    parser.add_argument("--plan", default="quick", choices=["scout", "none", "quick", "full"], help="how many samples")
    options = parser.parse_args(argv)
    if (cases := cases_asked_for(options)) is None:
        return 2
    record = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.timings", *(argv if argv is not None else sys.argv[1:])]),
        **_machine(),
        "cases": [],
    }
    for case in cases:
        record["cases"].append(record_case(case, options.plan))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"recorded in {options.out}")
    return 0


def _machine() -> dict[str, Any]:
    from tilewright.gpu.detect import detect_gpu
    from tilewright.search.versions import versions

    gpu = detect_gpu()
    return {"gpu": gpu.key if gpu is not None else "", "versions": dict(versions())}


def record_case(case: Case, plan: str) -> dict[str, Any]:
    """All candidates of one case: prior, parameters, time; and where the recording's own time went."""
    from tilewright.measure.session import ClockSession
    from tilewright.search.batch import parameters_of
    from tilewright.search.effort import find_effort
    from tilewright.search.evaluate import Evaluator
    from tilewright.search.meter import Meter
    from tilewright.search.opening import Memory
    from tilewright.search.tools import Tools
    from tilewright.task.load import load_task

    meter, tools = Meter(), Tools()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{case.name.replace('.', '_')}.py"
        path.write_text(case.source)
        task = load_task(path, precision=case.precision)
        with ClockSession(task) as clock:
            clock.start()
            with meter.on("synthesize"):
                candidates = tools.synthesize(task, lambda message: None)
            evaluator = Evaluator(task, tools, find_effort("full"), "measured", {}, Memory(None), meter)
            with meter.on("compile"):
                judged = [one for one in evaluator.predict_all(candidates) if not one.rejected]
            with meter.on("measure"):
                report = clock.measure([one.candidate for one in judged], plan)
    rows = []
    for one in judged:
        time_ = report.measured.get(one.candidate.digest)
        rows.append(
            {
                "key": one.candidate.digest,
                "description": one.candidate.description,
                "prior_ms": one.predicted_ms,
                "parameters": dict(parameters_of(one.candidate)),
                "median_ms": time_.median_ms if time_ is not None else None,
                "low_ms": time_.low_ms if time_ is not None else None,
                "high_ms": time_.high_ms if time_ is not None else None,
                "failure": report.failures.get(one.candidate.digest, ""),
            }
        )
    reference = report.measured.get("reference")
    best = min((row["median_ms"] for row in rows if row["median_ms"] is not None), default=None)
    print(
        f"{case.name}: {len(candidates)} candidates, {len(rows)} compiled, best {best} ms, {meter.seconds}", flush=True
    )
    return {
        "name": case.name,
        "precision": case.precision,
        "reference_ms": reference.median_ms if reference is not None else None,
        "candidates": len(candidates),
        "seconds": dict(meter.seconds),
        "options": rows,
    }


@dataclass(frozen=True)
class RecordedCase:
    """A recorded case as strategies take it."""

    name: str
    options: tuple[Any, ...]
    times: Mapping[str, Any]


def read_record(path: Path = RECORD) -> tuple[RecordedCase, ...]:
    """The cases of a record that have times."""
    from tilewright.search.strategies import Option
    from tilewright.search.strategies.replay import RecordedTime

    found = []
    for case in json.loads(path.read_text())["cases"]:
        rows = case["options"]
        options = tuple(Option(row["key"], float(row["prior_ms"]), row["parameters"]) for row in rows)
        times = {
            row["key"]: RecordedTime(row["median_ms"], row["low_ms"], row["high_ms"])
            for row in rows
            if row["median_ms"] is not None
        }
        if times:
            found.append(RecordedCase(case["name"], options, times))
    return tuple(found)


if __name__ == "__main__":
    started = time.monotonic()
    code = main()
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(code)
