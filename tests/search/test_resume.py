"""A run that is killed at any point and started again: no finished trial is repeated, the best is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.search.fire import ROOT

#: A run on the fakes that notes each call and, at the given one, is gone as after SIGKILL.
RUN = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from tests.search.fakes import GPU, Bench, FakeClock, candidate, rejected, task
from tilewright.search.run import optimize_task

folder, die_at, measured = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "measured"
times = {"given": 9.0, "a": 8.0, "b": 7.0, "c": 6.5, "wrong": 1.0, "d": 5.0, "e": 4.0}
bench = Bench(times, {"wrong": rejected()}, installed=GPU if measured else None)
bench.synthesized = [candidate(source) for source in ("a", "b", "wrong", "c", "broken")]
bench.retuned = {"c": [candidate("d")], "d": [candidate("e")]}
tools = bench.tools()
calls = 0

def noted(name, function):
    def call(*arguments):
        global calls
        calls += 1
        if calls == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments)
        with (folder / "calls").open("a") as file:
            source = arguments[1].source if hasattr(arguments[1], "source") else ""
            file.write(f"{name} {source}\\n")
        return result
    return call

tools = replace(tools, predict=noted("predict", tools.predict), gate=noted("gate", tools.gate))
study = optimize_task(task(given="given"), effort="full", tools=tools, study=folder / "study.sqlite")
(folder / "best").write_text(study.best.candidate.source)
"""


def run(folder: Path, die_at: int, timing: str) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(folder), str(die_at), timing]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False, capture_output=True).returncode


@pytest.mark.parametrize(("die_at", "timing"), [(8, "measured")])
def test_a_killed_run_repeats_nothing_and_ends_the_same(tmp_path: Path, die_at: int, timing: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert run(whole, 0, timing) == 0
    assert run(broken, die_at, timing) != 0
    assert run(broken, 0, timing) == 0
    assert (broken / "best").read_text() == (whole / "best").read_text() == "e"
    made = (broken / "calls").read_text().split("\n")[:-1]
    # What another thread had in hand when the run was killed was not finished; nothing else may stand there twice.
    assert len(made) - len(set(made)) <= 1
    assert set(made) == set((whole / "calls").read_text().split("\n")[:-1])
