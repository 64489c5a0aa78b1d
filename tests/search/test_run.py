from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.search.fakes import GPU, Bench, FakeClock, accepted, candidate, limited, rejected, task
from tilewright.errors import InputMismatchError, MissingReferenceError, TilewrightError
from tilewright.gpu.speed_of_light import speed_of_light
from tilewright.measure.clock import ClockReport
from tilewright.measure.peers import Peer
from tilewright.search.budget import Budget
from tilewright.search.progress import Step
from tilewright.search.run import optimize_task
from tilewright.search.understand import Understanding
from tilewright.task.stage import FULL_RUN, Stage
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Measured, Modelled, Work
from tilewright.values.precision import PrecisionClass
from tilewright.values.study import Outcome, Study


def run(bench: Bench, tmp_path: Path, asked: Task | None = None, **options: object) -> Study:
    store = tmp_path / "study.sqlite"
    return optimize_task(asked or task(), tools=bench.tools(), study=store, **options)  # type: ignore[arg-type]


def test_a_verified_faster_candidate_is_kept(tmp_path: Path) -> None:
    study = run(Bench({"a": 5.0}, synthesized=[candidate("a", native=("conv",))]), tmp_path)
    assert study.best is not None
    assert study.best.candidate.source == "a"
    assert study.speed_up == pytest.approx(2.0)
    assert study.best.verdict == accepted()
    assert "2x as fast as the reference" in study.best.reason


def test_nothing_is_kept_that_the_gate_rejects(tmp_path: Path) -> None:
    bench = Bench({"wrong": 1.0, "right": 5.0}, {"wrong": rejected()})
    bench.synthesized = [candidate("wrong"), candidate("right")]
    study = run(bench, tmp_path)
    assert study.best is not None
    assert study.best.candidate.source == "right"
    assert [trial.outcome for trial in study.trials] == [Outcome.REJECTED, Outcome.KEPT]
    assert "wrong by 1.03" in study.trials[0].reason


@pytest.mark.parametrize(("time_ms", "kept"), [(9.79, True), (9.81, False)])
def test_a_gain_under_two_percent_is_reverted(tmp_path: Path, time_ms: float, kept: bool) -> None:
    study = run(Bench({"a": time_ms}, synthesized=[candidate("a")]), tmp_path)
    assert (study.best is not None) is kept


def test_a_candidate_without_modelled_gain_does_not_reach_the_gate(tmp_path: Path) -> None:
    bench = Bench({"slow": 11.0}, synthesized=[candidate("slow")])
    study = run(bench, tmp_path)
    assert bench.calls["gate slow"] == 0
    assert study.trials[0].outcome is Outcome.REVERTED
    assert "not 2 % faster than the reference at 10 ms" in study.trials[0].reason


def test_a_candidate_that_cannot_be_compiled_is_a_rejected_trial(tmp_path: Path) -> None:
    study = run(Bench({}, synthesized=[candidate("broken")]), tmp_path)
    assert study.best is None
    assert study.trials[0].outcome is Outcome.REJECTED
    assert "compile.error: tl.arange over a run-time value" in study.trials[0].reason


def test_rejected_given_code_is_reported_and_the_task_goes_on(tmp_path: Path) -> None:
    bench = Bench({"given": 1.0, "a": 5.0}, {"given": rejected()}, synthesized=[candidate("a")])
    study = run(bench, tmp_path, task(given="given"))
    assert study.given is not None
    assert study.given.outcome is Outcome.REJECTED
    assert study.given.verdict is not None
    assert study.given.verdict.errors
    assert study.best is not None  # a wrong module's speed is no bar
    assert study.baseline is study.reference


def test_given_code_that_does_not_compile_goes_through_the_gate_all_the_same(tmp_path: Path) -> None:
    bench = Bench({"a": 5.0}, {"given": rejected()}, synthesized=[candidate("a")])
    study = run(bench, tmp_path, task(given="given"))
    assert bench.calls["gate given"] == 1
    assert study.given is not None
    assert study.given.verdict == rejected()
    assert study.given.timing is None


def test_accepted_given_code_is_the_time_to_beat(tmp_path: Path) -> None:
    bench = Bench({"given": 4.0, "a": 5.0}, synthesized=[candidate("a")])
    study = run(bench, tmp_path, task(given="given"))
    assert study.best is None
    assert "the given code at 4 ms" in study.trials[0].reason


def test_given_code_that_is_right_within_limits_only_is_no_bar_for_what_is_right(tmp_path: Path) -> None:
    bench = Bench({"given": 4.0, "a": 5.0}, {"given": limited()}, synthesized=[candidate("a")])
    study = run(bench, tmp_path, task(given="given"))
    assert study.best is not None
    assert study.baseline is study.reference
    assert any("right only within limits: wrong beyond 65504" in note for note in study.notes)


def test_variants_of_limited_code_have_to_beat_it(tmp_path: Path) -> None:
    bench = Bench({"given": 4.0, "a": 11.0, "b": 5.0, "c": 3.0}, {"given": limited()}, synthesized=[candidate("a")])
    bench.retuned = {"given": [candidate("b")]}
    assert run(bench, tmp_path, task(given="given")).best is None
    bench.retuned = {"given": [candidate("c")]}
    assert run(bench, tmp_path / "again", task(given="given")).best is not None


def test_each_stage_retunes_the_best_so_far(tmp_path: Path) -> None:
    bench = Bench({"a": 8.0, "b": 6.0, "c": 4.0}, synthesized=[candidate("a")])
    bench.retuned = {"a": [candidate("b")], "b": [candidate("c")]}
    study = run(bench, tmp_path)
    assert study.best is not None
    assert study.best.candidate.source == "c"
    assert study.best.stage == Stage.BLOCK_TILING
    assert bench.stages_retuned[:2] == [("a", Stage.GRID_AND_PARALLEL), ("b", Stage.BLOCK_TILING)]
    assert study.best.candidate.parent == candidate("b").digest


def test_a_retuned_candidate_inherits_what_its_parent_left_native(tmp_path: Path) -> None:
    bench = Bench({"a": 8.0, "b": 6.0}, synthesized=[candidate("a", native=("convolution",))])
    bench.retuned = {"a": [candidate("b")]}
    best = run(bench, tmp_path).best
    assert best is not None
    assert best.candidate.native == ("convolution",)


def test_a_stage_that_only_tunes_synthesizes_nothing_where_right_code_was_given(tmp_path: Path) -> None:
    asked = task(stages=[Stage.ADVANCED_MEMORY], given="given")
    tuning = type(asked.rules[0])(Stage.ADVANCED_MEMORY, "tuning", may_change_grid=False)
    asked = Task(**{**vars(asked), "rules": (tuning,)})
    bench = Bench({"given": 4.0, "a": 1.0}, synthesized=[candidate("a")])
    assert run(bench, tmp_path, asked).best is None
    assert bench.calls["synthesize"] == 0
    wrong = Bench({"given": 4.0, "a": 1.0}, {"given": rejected()}, synthesized=[candidate("a")])
    assert run(wrong, tmp_path / "wrong", asked).best is not None


def test_without_a_reference_only_the_given_code_is_retuned(tmp_path: Path) -> None:
    bench = Bench({"given": 4.0, "b": 3.0}, {"given": rejected()}, reference_ms=None)
    bench.retuned = {"given": [candidate("b")]}
    study = run(bench, tmp_path, task(given="given", specification=True))
    assert bench.calls["synthesize"] == 0
    assert study.oracle == "given code"
    assert study.best is not None
    assert study.speed_up == pytest.approx(4 / 3)
    assert any("the given code is the specification" in note for note in study.notes)


def test_without_a_reference_a_stage_that_gains_nothing_is_followed_by_the_next(tmp_path: Path) -> None:
    bench = Bench({"given": 4.0, "b": 3.99}, reference_ms=None)
    bench.retuned = {"given": [candidate("b")]}
    study = run(bench, tmp_path, task(given="given", specification=True))
    assert [stage for _, stage in bench.stages_retuned] == list(FULL_RUN)
    assert study.best is None


def test_a_document_alone_cannot_be_optimised(tmp_path: Path) -> None:
    alone = Task(**{**vars(task(given="given")), "reference": None})
    with pytest.raises(MissingReferenceError, match="--reference FILE"):
        optimize_task(alone, tools=Bench({}).tools(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_input_that_shows_late_leaves_nothing_behind(tmp_path: Path) -> None:
    def gate(*arguments: object) -> object:
        raise InputMismatchError("the reference cannot be run: index out of range")

    tools = Bench({"a": 5.0}, synthesized=[candidate("a")]).tools()
    broken = type(tools)(**{**vars(tools), "gate": gate})
    with pytest.raises(InputMismatchError):
        optimize_task(task(), tools=broken, out=tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_effort_is_bad_input() -> None:
    with pytest.raises(TilewrightError, match="no effort level"):
        optimize_task(task(), effort="heroic", tools=Bench({}).tools())


def test_the_run_stops_where_nothing_gained_for_a_stage(tmp_path: Path) -> None:
    bench = Bench({"a": 8.0, "b": 9.0}, synthesized=[candidate("a")])
    bench.retuned = {"a": [candidate("b")]}
    bench.synthesized = [candidate("slow"), candidate("a")]
    bench.times = {"a": 11.0, "slow": 12.0, "b": 1.0}
    study = run(bench, tmp_path)
    assert any("ended before stage block_tiling" in note for note in study.notes)


def test_the_run_stops_near_the_speed_of_light(tmp_path: Path) -> None:
    work = Work(int(504e6), int(504e6), 0, 0)  # 1 ms at the 4090's 1008 GB/s
    floor = speed_of_light(work, GPU, PrecisionClass.TF32)
    understanding = Understanding(None, (), (), (), work, {PrecisionClass.TF32: floor})
    bench = Bench({"a": 1.02}, synthesized=[candidate("a")], understanding=understanding)
    study = run(bench, tmp_path)
    assert any("98 % of the speed of light" in note for note in study.notes)
    assert study.fraction_of_speed_of_light(study.reference) == pytest.approx(0.1)


def test_the_same_source_is_tried_once(tmp_path: Path) -> None:
    bench = Bench({"given": 9.0, "a": 8.0}, synthesized=[candidate("given"), candidate("a"), candidate("a")])
    study = run(bench, tmp_path, task(given="given"))
    assert [trial.candidate.source for trial in study.trials] == ["a"]
    assert bench.calls["gate given"] == 1


def test_a_finished_trial_is_not_repeated(tmp_path: Path) -> None:
    first = Bench({"given": 9.0, "a": 8.0}, {"given": rejected()}, synthesized=[candidate("a"), candidate("broken")])
    before = run(first, tmp_path, task(given="given"))
    second = Bench(first.times, first.verdicts, synthesized=first.synthesized)
    after = run(second, tmp_path, task(given="given"), again=True)
    assert not [call for call in second.calls if call.startswith(("gate", "predict"))]
    assert [trial.resumed for trial in after.trials] == [True, True]
    assert after.best_number == before.best_number
    assert [t.outcome for t in after.trials] == [t.outcome for t in before.trials]
    assert after.given is not None
    assert after.given.verdict == rejected()


def test_times_are_measured_only_on_the_target_itself(tmp_path: Path) -> None:
    bench = Bench({"a": 5.0}, synthesized=[candidate("a")])
    assert isinstance(run(bench, tmp_path).reference, Modelled)
    bench.installed = type(GPU)(**{**vars(GPU), "key": "other", "name": "Other"})
    study = run(bench, tmp_path / "other")
    assert study.timing_kind == "modelled"
    assert any("this machine has a Other" in note for note in study.notes)


def test_with_the_target_every_compared_time_is_measured(tmp_path: Path) -> None:
    bench = Bench({"given": 9.0, "a": 8.0, "b": 5.0, "c": 9.5, "far": 30.0}, installed=GPU)
    bench.synthesized = [candidate("far"), candidate("a"), candidate("b"), candidate("c")]
    study = run(bench, tmp_path, task(given="given"))
    assert study.timing_kind == "measured"
    assert isinstance(study.reference, Measured)
    assert study.given is not None
    assert isinstance(study.given.timing, Measured)
    assert study.best is not None
    assert study.best.candidate.source == "b"
    assert isinstance(study.best.timing, Measured)
    by_source = {trial.candidate.source: trial for trial in study.trials}
    assert "far behind" in by_source["far"].reason
    assert by_source["far"].timing is None
    assert by_source["a"].outcome is Outcome.REVERTED


def test_the_best_of_each_set_of_native_operations_is_measured(tmp_path: Path) -> None:
    bench = Bench({"a": 8.0, "b": 5.0, "c": 9.5, "left": 30.0, "left too": 31.0}, installed=GPU)
    bench.synthesized = [candidate("a"), candidate("b"), candidate("c")]
    bench.synthesized += [candidate("left", native=("linear",)), candidate("left too", native=("linear",))]
    by_source = {trial.candidate.source: trial for trial in run(bench, tmp_path).trials}
    assert "not measured" not in by_source["left"].reason
    assert "far behind" in by_source["left too"].reason


def test_a_measured_run_resumes_without_measuring_a_trial_again(tmp_path: Path) -> None:
    def bench() -> Bench:
        return Bench({"a": 8.0, "b": 5.0}, installed=GPU, synthesized=[candidate("a"), candidate("b")])

    first, second = bench(), bench()
    before = run(first, tmp_path)
    after = run(second, tmp_path, again=True)
    assert after.best_number == before.best_number
    assert second.calls["measure"] == first.calls["measure"] - 1  # reference and final table alone
    assert not [call for call in second.calls if call.startswith("gate")]


def test_a_gain_that_does_not_show_again_is_reverted(tmp_path: Path) -> None:
    bench = Bench({"a": 5.0}, installed=GPU, synthesized=[candidate("a")])
    tools = bench.tools()

    class Worse(FakeClock):
        def measure(
            self, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer] = (), peers_s: float = 0.0
        ) -> ClockReport:
            if bench.calls["gate a"]:
                bench.times = {"a": 9.95}
            return super().measure(candidates, plan, peers, peers_s)

    again = replace(tools, open_clock=lambda task: Worse(bench, task))
    study = optimize_task(task(stages=[Stage.BLOCK_TILING]), tools=again, study=tmp_path / "s.sqlite")
    assert study.best is None
    assert "measured once more" in study.trials[0].reason


def test_a_store_that_cannot_be_opened_costs_memory_not_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.sqlite").write_text("this is no database, and long enough to be seen as none" * 30)
    study = optimize_task(task(), tools=Bench({"a": 5.0}, synthesized=[candidate("a")]).tools(), out=out)
    assert study.best is not None
    assert any("nothing is remembered" in note for note in study.notes)


def test_a_store_that_was_asked_for_must_open(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sqlite"
    bad.write_text("this is no database, and long enough to be seen as none" * 30)
    with pytest.raises(TilewrightError, match="cannot be opened"):
        optimize_task(task(), tools=Bench({}).tools(), study=bad)


def test_progress_never_goes_back(tmp_path: Path) -> None:
    steps: list[Step] = []
    bench = Bench({"given": 9.0, "a": 8.0, "b": 7.0}, synthesized=[candidate("a")])
    bench.retuned = {"a": [candidate("b")]}
    run(bench, tmp_path, task(given="given"), progress=steps.append)
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert any("try b" in str(step) for step in steps)


# With the target: the clock before the gate.


def test_the_gate_sees_the_fastest_first_and_the_next_where_it_is_rejected(tmp_path: Path) -> None:
    bench = Bench({"wrong": 2.0, "b": 4.0, "c": 5.0}, {"wrong": rejected()}, installed=GPU)
    bench.synthesized = [candidate("c"), candidate("b"), candidate("wrong")]
    study = run(bench, tmp_path, effort="full")
    assert study.best is not None
    assert study.best.candidate.source == "b"
    assert [call for call in bench.calls if call.startswith("gate")] == ["gate wrong", "gate b"]


def test_no_measured_time_is_reported_of_what_did_not_pass(tmp_path: Path) -> None:
    bench = Bench({"wrong": 2.0, "b": 4.0, "c": 5.125}, {"wrong": rejected()}, installed=GPU)
    bench.synthesized = [candidate("c"), candidate("b"), candidate("wrong")]
    study = run(bench, tmp_path, effort="full")
    unproved = [trial for trial in study.trials if not trial.is_right]
    assert {trial.candidate.source for trial in unproved} == {"wrong", "c"}
    assert all(trial.timing is None for trial in unproved)
    assert not any("5.125" in trial.reason for trial in unproved)


def test_the_given_code_is_judged_while_candidates_are_compiled(tmp_path: Path) -> None:
    import threading

    compiled = threading.Event()
    bench = Bench({"given": 9.0, "a": 5.0}, synthesized=[candidate("a")], installed=GPU)
    tools = bench.tools()

    def gate(task: Task, candidate: Candidate, effort: str, say: object) -> object:
        if candidate.source == "given":
            assert compiled.wait(20), "the gate on the given code held everything up"
        return tools.gate(task, candidate, effort, say)  # type: ignore[arg-type]

    def predict(task: Task, candidate: Candidate) -> object:
        if candidate.source == "a":
            compiled.set()
        return tools.predict(task, candidate)

    both = replace(tools, gate=gate, predict=predict)  # type: ignore[arg-type]
    study = optimize_task(task(given="given"), tools=both, study=tmp_path / "s.sqlite")
    assert study.best is not None
    assert study.given is not None
    assert isinstance(study.given.timing, Measured)


def test_where_a_batch_is_measured_whole_the_gpu_works_while_the_next_are_compiled(tmp_path: Path) -> None:
    import threading

    scouted = threading.Event()
    bench = Bench({"a": 8.0, "b": 5.0}, installed=GPU, synthesized=[candidate("a"), candidate("b")])
    tools = bench.tools()

    class Telling(FakeClock):
        def measure(
            self, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer] = (), peers_s: float = 0.0
        ) -> ClockReport:
            found = super().measure(candidates, plan, peers, peers_s)
            if [item.source for item in candidates] == ["a"]:
                scouted.set()
            return found

    def predict(task: Task, one: Candidate) -> object:
        if one.source == "b":
            assert scouted.wait(20), "nothing was measured while this was compiled"
        return tools.predict(task, one)

    both = replace(tools, predict=predict, open_clock=lambda task: Telling(bench, task))  # type: ignore[arg-type]
    study = optimize_task(task(stages=[Stage.BLOCK_TILING]), tools=both, study=tmp_path / "s.sqlite", effort="full")
    assert study.best is not None
    assert study.best.candidate.source == "b"


def test_where_the_host_binds_no_schedules_are_tried(tmp_path: Path) -> None:
    bench = Bench({"a": 0.01, "b": 0.005}, installed=GPU, synthesized=[candidate("a")], reference_ms=0.05)
    bench.call_times = {"a": 0.04, "b": 0.039}
    study = run(bench, tmp_path)
    assert any("the host binds the result" in note for note in study.notes)
    assert len(study.stage_results) == 1
    assert bench.stages_retuned == []
    captured = run(bench, tmp_path, graphs=True)
    assert len(captured.stage_results) > 1


def test_a_batch_that_would_outlast_the_budget_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench({"a": 8.0, "b": 5.0}, synthesized=[candidate("a")])
    bench.retuned = {"a": [candidate("b")]}
    monkeypatch.setattr(Budget, "suffices_for", lambda self, activity: activity != "compile")
    study = run(bench, tmp_path)
    assert [trial.candidate.source for trial in study.trials] == ["a"]  # the first is tried whatever the time
    assert any("1 candidates were not tried, time was up" in note for note in study.notes)


def test_without_time_for_another_gate_the_rest_of_a_batch_is_reverted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench({"a": 8.0, "b": 5.0}, {"b": rejected()}, synthesized=[candidate("a"), candidate("b")])
    bench.retuned = {"a": [candidate("c")]}
    bench.times = {"a": 8.0, "b": 5.0, "c": 4.0}
    monkeypatch.setattr(Budget, "suffices_for", lambda self, activity: activity != "gate")
    study = run(bench, tmp_path, task(stages=[Stage.GRID_AND_PARALLEL]))
    by_source = {trial.candidate.source: trial for trial in study.trials}
    assert by_source["a"].outcome is Outcome.KEPT  # nothing was kept yet: it has its turn
    assert by_source["c"].outcome is Outcome.REVERTED
    assert "no time was left for the gate" in by_source["c"].reason
    assert bench.calls["gate c"] == 0


def test_each_stage_says_what_came_of_it(tmp_path: Path) -> None:
    bench = Bench({"a": 8.0, "b": 7.95, "c": 5.0}, synthesized=[candidate("a")], installed=GPU)
    bench.retuned = {"a": [candidate("b")], "c": []}
    study = run(bench, tmp_path, effort="full")
    first, second = study.stage_results[:2]
    assert (first.stage, first.tried, first.kept) == (Stage.GRID_AND_PARALLEL, 2, 1)
    assert first.before is not None
    assert first.after is not None
    assert (first.before.time_ms, first.after.time_ms) == (10.0, 8.0)
    assert second.kept is None
    assert any("stage grid_and_parallel: trial 1 of 2 candidates is kept, 10 -> 8 ms" in note for note in study.notes)


def test_the_clock_is_closed_whatever_happens(tmp_path: Path) -> None:
    bench = Bench({"a": 5.0}, synthesized=[candidate("a")], installed=GPU)

    def broken(*arguments: object) -> object:
        raise InputMismatchError("the reference cannot be run")

    with pytest.raises(InputMismatchError):
        optimize_task(task(), tools=replace(bench.tools(), gate=broken), study=tmp_path / "s.sqlite")  # type: ignore[arg-type]
    assert bench.calls["start"] == bench.calls["close"] == 1


def test_what_was_spent_is_said(tmp_path: Path) -> None:
    bench = Bench({"a": 5.0}, synthesized=[candidate("a")], installed=GPU)
    assert set(run(bench, tmp_path).spent) >= {"understand", "synthesize", "compile", "measure", "gate"}
