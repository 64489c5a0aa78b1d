"""The long runs: `python -m benchmarks.soak all`, or one by name. Figures go to `benchmarks/results`.

`make test` runs a fixed sample of each; these are the full counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.soak_record import Record

Run = Callable[[argparse.Namespace], Record]


def _corpus(options: argparse.Namespace) -> Record:
    from benchmarks import soak_corpus

    return soak_corpus.run(options.only, options.jobs)


def _mutants(options: argparse.Namespace) -> Record:
    from benchmarks import soak_mutants

    return soak_mutants.run(
        options.count or 600, options.seed, options.jobs, options.only, options.journal, options.seconds
    )


def _fuzz(options: argparse.Namespace) -> Record:
    from benchmarks import soak_fuzz

    return soak_fuzz.run(options.count or 100_000, options.seed)


def _kills(options: argparse.Namespace) -> Record:
    from benchmarks import soak_kills

    return soak_kills.run(options.count or 50, options.seed, options.jobs, options.journal, options.seconds)


def _alarms(options: argparse.Namespace) -> Record:
    from benchmarks import soak_alarms

    return soak_alarms.run(options.count or 200, options.seed, options.only)


def _replies(options: argparse.Namespace) -> Record:
    from benchmarks import soak_replies

    return soak_replies.run(options.count or 10_000, options.seed)


def _store(options: argparse.Namespace) -> Record:
    from benchmarks import soak_store

    return soak_store.run(options.count or 200, options.seed, options.seconds or 1800.0)


def _draws(options: argparse.Namespace) -> Record:
    from benchmarks import soak_draws

    return soak_draws.run(options.count or 10, options.jobs)


def _drop_ins(options: argparse.Namespace) -> Record:
    from benchmarks import soak_drop_ins

    return soak_drop_ins.run(options.count or 2000, options.seed, options.jobs)


def _misreadings(options: argparse.Namespace) -> Record:
    from benchmarks import soak_misreadings

    return soak_misreadings.run(options.count, options.jobs, options.only)


_RUNS: Mapping[str, Run] = {
    "corpus": _corpus,
    "mutants": _mutants,
    "fuzz": _fuzz,
    "kills": _kills,
    "replies": _replies,
    "alarms": _alarms,
    "store": _store,
    "draws": _draws,
    "drop_ins": _drop_ins,
    "misreadings": _misreadings,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one soak; exit code 0 where its goal is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("what", choices=[*_RUNS, "all"])
    parser.add_argument("--count", type=int, default=0, help="how many; the goal's number where none is given")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--jobs", type=int, default=1, help="gates at a time (each uses up to two cores)")
    parser.add_argument("--only", default="", help="names that contain this (corpus, mutants)")
    parser.add_argument("--journal", type=Path, help="file in which finished mutants and kills are kept (resumes)")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin nothing new after so many (with --journal)")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    parser.add_argument("--no-record", action="store_true", help="leave benchmarks/results as it is")
    options = parser.parse_args(arguments)
    met = True
    for name in _RUNS if options.what == "all" else [options.what]:
        if name == "alarms" and options.what == "all" and not torch.cuda.is_available():
            print("alarms: left out, it needs a GPU")
            continue
        record = _RUNS[name](options)
        if not options.no_record:
            record.write()
        print(json.dumps(record.as_data()) if options.json else record.summary())
        met = met and record.goal_met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
