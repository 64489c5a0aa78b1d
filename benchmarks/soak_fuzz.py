"""`python -m benchmarks.soak fuzz`: damaged documents, Python files, replies and JSON against every reader.

A reader may return, or raise its own error for people; anything else is a failure, as are a reader that takes
longer than its limit and one that opens a file for writing.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter

from benchmarks.soak_record import Record
from tests.fuzz.readers import READERS, outcome
from tests.fuzz.texts import damaged


def run(count: int, seed: int) -> Record:
    """Feed `count` inputs, the readers in turn."""
    # The parser's remarks on damaged code are no news.
    warnings.simplefilter("ignore", SyntaxWarning)
    started = time.monotonic()
    ended: Counter[str] = Counter()
    failures: dict[str, str] = {}
    slowest: dict[str, float] = {}
    readers = list(READERS)
    for index in range(count):
        reader = readers[index % len(readers)]
        before = time.monotonic()
        result = outcome(reader, damaged(reader.seeds(), seed * 1_000_003 + index))
        slowest[reader.name] = max(slowest.get(reader.name, 0.0), time.monotonic() - before)
        ended[result.kind] += 1
        if result.kind == "failure":
            # One of each kind is enough; its number repeats it.
            where = f"{reader.name}: {result.text}"
            failures.setdefault(where, f"first by input {index} of seed {seed}: {result.message}")
        if index % 10_000 == 9_999:
            print(f"{index + 1} inputs, {ended['failure']} failures, {time.monotonic() - started:.0f} s", flush=True)
    return Record(
        kind="fuzz",
        counts={"inputs": count, **dict(sorted(ended.items())), "distinct failures": len(failures)},
        failures=tuple(f"{where} ({what})" for what, where in failures.items()),
        details=tuple({"reader": name, "slowest_s": round(seconds, 3)} for name, seconds in sorted(slowest.items())),
        seconds=time.monotonic() - started,
        goal_met=not failures,
    )
