"""torch.compile in a search: what is kept beats it, and where it is faster that is what the study says."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.search.fakes import GPU, Bench, FakeClock, candidate, task
from tilewright.measure.clock import ClockReport
from tilewright.measure.peers import PEERS
from tilewright.report.summary import sentence
from tilewright.search.peers import has_layouts
from tilewright.search.run import optimize_task
from tilewright.search.understand import NOTHING
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Measured, bound_by
from tilewright.values.study import Outcome, Study

DEFAULT = PEERS[0].name


def bench(**times: float) -> Bench:
    return Bench(times, installed=GPU, synthesized=[candidate(source) for source in times])


def run(found: Bench, tmp_path: Path, asked: Task | None = None, **options: object) -> Study:
    return optimize_task(asked or task(), tools=found.tools(), study=tmp_path / "s", **options)  # type: ignore[arg-type]


def test_what_is_kept_beats_the_best_peer(tmp_path: Path) -> None:
    study = run(replace(bench(a=4.0), peers={DEFAULT: 5.0}), tmp_path)
    assert study.best is not None
    assert study.runner_up is None
    assert study.best_peer == (DEFAULT, study.peers[DEFAULT])
    assert study.speed_up == pytest.approx(5.0 / 4.0)  # over the best that there was: not over the reference's 10 ms


@pytest.mark.parametrize(("ours_ms", "said"), [(5.5, "is faster: 5 ms, ours 5.5 ms"), (4.95, "as fast within 2 %")])
def test_where_a_peer_is_as_fast_nothing_better_was_found(tmp_path: Path, ours_ms: float, said: str) -> None:
    study = run(replace(bench(a=ours_ms), peers={DEFAULT: 5.0}), tmp_path)
    assert study.best is None
    assert study.ours is not None
    assert study.ours.candidate.source == "a"
    assert study.ours.outcome is Outcome.REVERTED
    assert f"{DEFAULT} is" in study.ours.reason
    assert said in study.ours.reason
    assert said in sentence(study)


def test_the_fastest_of_ours_is_kept_where_the_user_asks_for_it(tmp_path: Path) -> None:
    study = run(replace(bench(a=5.5), peers={DEFAULT: 5.0}), tmp_path).keeping_ours()
    assert study.best is not None
    assert study.best.candidate.source == "a"
    assert "is faster: 5 ms, ours 5.5 ms" in sentence(study)


def test_the_longer_of_two_times_decides(tmp_path: Path) -> None:
    found = replace(bench(a=0.012), reference_ms=0.02, peers={DEFAULT: 0.015})
    found.call_times = {"a": 0.09, "reference": 0.1, DEFAULT: 0.071}
    study = run(found, tmp_path)
    assert study.best is None
    assert "is faster: 0.071 ms, ours 0.09 ms" in sentence(study)
    assert study.reference is not None
    assert (study.reference.time_ms, study.reference.gpu_ms, bound_by(study.reference)) == (0.1, 0.02, "host")


def test_with_graphs_the_gpu_alone_decides_and_is_another_question(tmp_path: Path) -> None:
    found = replace(bench(a=0.012), reference_ms=0.02, peers={DEFAULT: 0.015})
    found.call_times = {"a": 0.09, "reference": 0.1, DEFAULT: 0.071}
    assert run(found, tmp_path).best is None
    study = run(found, tmp_path, graphs=True)
    assert study.graphs
    assert study.best is not None
    assert isinstance(study.best.timing, Measured)
    assert (study.best.timing.time_ms, study.best.timing.call_ms) == (0.012, 0.09)
    assert study.speed_up == pytest.approx(0.015 / 0.012)
    calls = found.calls.total()
    assert run(found, tmp_path, graphs=True).best == replace(study.best, resumed=True, seconds=0.0)
    assert run(found, tmp_path).best is None
    assert found.calls.total() == calls  # both were found again


def test_a_peer_that_fails_is_named_and_left_out(tmp_path: Path) -> None:
    study = run(replace(bench(a=4.0), peers={}), tmp_path, effort="full")
    assert study.best is not None
    assert study.peers == {}
    assert study.peer_failures == {DEFAULT: "BackendCompilerFailed", PEERS[2].name: "BackendCompilerFailed"}


def test_channels_last_is_asked_for_where_there_are_layouts() -> None:
    assert not has_layouts(NOTHING)
    assert has_layouts(replace(NOTHING, input_shapes=((2, 3), (2, 3, 4, 4))))
    assert has_layouts(replace(NOTHING, operations=("aten.convolution.default",)))


def test_there_is_no_peer_of_a_specification_or_without_the_target(tmp_path: Path) -> None:
    found = Bench({"given": 4.0, "b": 3.0}, reference_ms=None, installed=GPU)
    found.retuned = {"given": [candidate("b")]}
    assert run(found, tmp_path, task(given="given", specification=True)).peers == {}
    modelled = replace(bench(a=4.0), installed=None, peers={DEFAULT: 1.0})
    assert run(modelled, tmp_path / "modelled").best is not None
    assert found.calls["peers"] == modelled.calls["peers"] == 0


def test_peers_are_compiled_while_candidates_are(tmp_path: Path) -> None:
    compiled = threading.Event()
    found = replace(bench(a=4.0), peers={DEFAULT: 5.0})
    tools = found.tools()

    class Waiting(FakeClock):
        def measure(self, candidates: object, plan: str, peers: object = (), peers_s: float = 0.0) -> ClockReport:
            if not candidates and peers:
                assert compiled.wait(20), "the peers held everything up"
                assert peers_s > 0
            return super().measure(candidates, plan, peers, peers_s)  # type: ignore[arg-type]

    def predict(asked: Task, one: Candidate) -> object:
        compiled.set()
        return tools.predict(asked, one)

    both = replace(tools, predict=predict, open_clock=lambda asked: Waiting(found, asked))  # type: ignore[arg-type]
    study = optimize_task(task(), tools=both, study=tmp_path / "s")
    assert study.peers[DEFAULT].time_ms == 5.0
    assert "peers" in study.spent
