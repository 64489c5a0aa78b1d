"""What a run sees of the modules that it compares: in the study, and in what a language model is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.report.samples import full_study
from tests.search.fakes import GPU, Bench, candidate, task
from tilewright.measure.peers import peers_for
from tilewright.proposers.llm.turn import Turn
from tilewright.report.summary import rows
from tilewright.search.effort import find_effort
from tilewright.search.run import optimize_task
from tilewright.search.understand import understand
from tilewright.task.load import load_task
from tilewright.task.stage import Stage
from tilewright.values.candidate import Candidate
from tilewright.values.exchange import Exchange

GIVEN, BETTER = "given", "better"
SIGHTS = {GIVEN: full_study().sights[0], BETTER: full_study().sights[1]}


@dataclass
class Listener:
    """A conversation that proposes nothing."""

    turns: list[Turn] = field(default_factory=list)
    seconds_left: float = 10.0
    exchanges: tuple[Exchange, ...] = ()
    notes: tuple[str, ...] = ()

    def propose(self, turn: Turn, log: object, say: object) -> Sequence[Candidate]:
        self.turns.append(turn)
        return ()

    def close(self) -> None:
        pass


def bench() -> Bench:
    return Bench({GIVEN: 8.0, BETTER: 4.0}, synthesized=[candidate(BETTER)], sights=SIGHTS)


def test_the_study_carries_what_was_seen_before_and_after(tmp_path: Path) -> None:
    asked = task(stages=[Stage.GRID_AND_PARALLEL], given=GIVEN)
    found = optimize_task(asked, tools=bench().tools(), study=tmp_path / "s")
    assert [sight.subject for sight in found.sights] == ["given code", "ours"]
    assert [sight.report for sight in found.sights] == [SIGHTS[GIVEN].report, SIGHTS[BETTER].report]
    assert found.ceilings is not None
    assert (found.ceilings.bandwidth_gb_s, found.ceilings.operand) == (1008, "TF32")


def test_the_language_model_is_told_what_holds_the_current_code_back(tmp_path: Path) -> None:
    listener, tools = Listener(), bench()
    stages = [Stage.GRID_AND_PARALLEL, Stage.BLOCK_TILING]
    asked = task(stages=stages, given=GIVEN)
    optimize_task(asked, tools=tools.tools(), conversation=listener, study=tmp_path / "s")
    assert listener.turns
    for turn in listener.turns:
        assert turn.current is not None
        assert turn.current.candidate.source == BETTER
        assert "PyTorch's convolution takes" in turn.diagnosis
        assert "Costs up to" in turn.diagnosis
    assert tools.calls[f"look {BETTER}"] == 2  # in passing for retune, then the whole model, once each


def test_a_look_that_fails_costs_its_section_and_not_the_run(tmp_path: Path) -> None:
    def fail(*asked: object) -> None:
        raise ValueError("cannot be seen")

    tools = replace(bench().tools(), look=fail)
    asked = task(stages=[Stage.GRID_AND_PARALLEL], given=GIVEN)
    found = optimize_task(asked, tools=tools, study=tmp_path / "s")
    assert found.best is not None
    assert found.sights == ()
    assert any("no diagnosis, ValueError: cannot be seen" in note for note in found.notes)


@pytest.mark.parametrize("effort", ["full", "quick"])
def test_peers_are_measured_with_the_result_and_are_no_trials(tmp_path: Path, effort: str) -> None:
    asked_for = peers_for(find_effort(effort).peer_modes, has_layouts=False)
    times = {peer.name: 5.0 + number for number, peer in enumerate(asked_for)}
    tools = replace(bench(), installed=GPU, times={GIVEN: 8.0, BETTER: 4.0}, peers=times)
    asked = task(stages=[Stage.GRID_AND_PARALLEL], given=GIVEN)
    found = optimize_task(asked, tools=tools.tools(), study=tmp_path / "s", effort=effort)
    assert list(found.peers) == list(times)
    assert [row.name for row in rows(found)] == ["reference", *times, "given code", "ours"]
    assert found.best is not None
    assert found.best.candidate.source == BETTER
    assert not any("torch.compile" in trial.candidate.description for trial in found.trials)


REFERENCE = """
import torch, torch.nn as nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
    def forward(self, x):
        return EXPRESSION
def get_inputs(): return [torch.rand(2, 4, 32, 32)]
def get_init_inputs(): return []
"""


def matrix_operations(tmp_path: Path, expression: str) -> int:
    reference = tmp_path / "reference.py"
    reference.write_text(REFERENCE.replace("EXPRESSION", expression))
    work = understand(load_task(reference, gpu="4090")).work
    assert work is not None
    return work.matrix_operations


def test_the_speed_of_light_is_that_of_what_algebra_leaves(tmp_path: Path) -> None:
    whole = matrix_operations(tmp_path, "self.conv(x)")
    assert matrix_operations(tmp_path, "torch.relu(self.conv(x)).mean((2, 3))") == whole
    assert matrix_operations(tmp_path, "self.conv(x).mean((2, 3))") < whole / 100
