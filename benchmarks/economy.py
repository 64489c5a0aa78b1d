"""Search economy, from recorded times: how near each effort comes to the best schedule, and in how many measurements.

    python -m benchmarks.economy [--record FILE] [--out FILE]

The record (`python -m benchmarks.timings`, on a GPU) has the time of every candidate of each task, so the exhaustively
best one is known. Each effort's way (what it compiles, what the model sets aside, its strategy) is replayed on it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.timings import RECORD, RecordedCase, read_record
from benchmarks.workloads import RESULTS


@dataclass(frozen=True)
class Economy:
    """What one effort reached on one task.

    Attributes:
        case: the task.
        effort: name of the level.
        strategy: that was taken for this many options.
        options: candidates of the task that compile.
        compiled: that the effort compiles.
        measured: that it measured at least once.
        measurements: that it made in all.
        share: time of the exhaustively best over time of what was found: 1 where it was found.
    """

    case: str
    effort: str
    strategy: str
    options: int
    compiled: int
    measured: int
    measurements: int
    share: float


def economy_of(case: RecordedCase, effort_name: str) -> Economy:
    """Replay an effort on a recorded task."""
    from tilewright.search.effort import find_effort
    from tilewright.search.strategies import choose, far_behind_ms, find_strategy
    from tilewright.search.strategies.replay import replay

    effort = find_effort(effort_name)
    compiled = case.options[: effort.predicted]
    near = far_behind_ms([option.prior_ms for option in compiled], effort.far_behind)
    options = [option for option in compiled if option.prior_ms <= near]
    name = choose(len(options), effort.small, effort.strategy)
    found = replay(find_strategy(name), options, case.times, effort.bounds)
    best = min(time.median_ms for time in case.times.values())
    share = best / case.times[found.best].median_ms if found.best else 0.0
    return Economy(
        case.name, effort_name, name, len(case.options), len(compiled), found.options_measured, found.measurements,
        round(share, 4),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and write it; 0 where `quick` reaches 93 % everywhere, 1 where not, 2 without a record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.economy", description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE", help=f"default: {RECORD.name}")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "economy.json", metavar="FILE", help="default: %(default)s"
    )
    options = parser.parse_args(argv)
    if not options.record.is_file():
        print(f"error: there is no record {options.record}; python -m benchmarks.timings makes one", file=sys.stderr)
        return 2
    rows = [economy_of(case, effort) for case in read_record(options.record) for effort in ("quick", "full")]
    for row in rows:
        print(
            f"{row.case:32} {row.effort:6} {row.strategy:20} {row.share:7.1%} of the best, "
            f"{row.measured:3} of {row.options} options in {row.measurements} measurements"
        )
    record = {"record": options.record.name, "rows": [asdict(row) for row in rows]}
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(row.share >= 0.93 for row in rows if row.effort == "quick") else 1


if __name__ == "__main__":
    sys.exit(main())
