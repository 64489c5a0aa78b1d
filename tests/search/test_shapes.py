"""More shapes than one: schedules by size in one file, judged at every shape; or one schedule for all, and said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.proposers.test_shape_table import TEXT, variant
from tests.search.fakes import GPU, Bench, accepted, candidate, rejected, task
from tilewright.measure.clock import ClockReport
from tilewright.search.run import optimize_task
from tilewright.search.shapes import merged
from tilewright.search.tools import Prediction
from tilewright.search.understand import NOTHING
from tilewright.task.task import InputSpec, Task
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Modelled
from tilewright.values.study import Outcome, Study
from tilewright.values.verdict import Verdict

SMALL, LARGE = variant(32, 2), variant(128, 8)
UNDERSTOOD = replace(NOTHING, input_shapes=((4, 8),))


@dataclass
class ShapedBench(Bench):
    """Times by the elements of the input; a merged file is as fast as the best of its parts."""

    by_size: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    refused_at: int = 0

    def _time(self, asked: Task, source: str) -> float | None:
        assert asked.reference is not None
        assert asked.reference.inputs is not None
        shape = asked.reference.inputs[0].shape
        times = self.by_size[shape[0] * shape[1]]
        return min(times.values()) if "SCHEDULES" in source else times.get(source)

    def _predict(self, asked: Task, one: Candidate) -> Prediction:
        time = self._time(asked, one.source)
        return Prediction(None) if time is None else Prediction(Modelled(time, asked.gpu.name, "dram"))

    def _gate(self, asked: Task, one: Candidate, effort: str, say: object) -> Verdict:
        assert asked.reference is not None
        assert asked.reference.inputs is not None
        shape = asked.reference.inputs[0].shape
        size = shape[0] * shape[1]
        self.calls[f"gate at {size}"] += "SCHEDULES" in one.source
        return rejected("wrong there") if "SCHEDULES" in one.source and size == self.refused_at else accepted()

    def measure(self, asked: Task, candidates: object, plan: str, peers: object = ()) -> ClockReport:
        self.times = {item.source: self._time(asked, item.source) or 99.0 for item in candidates}  # type: ignore
        return super().measure(asked, candidates, plan, peers)  # type: ignore[arg-type]


def asked() -> Task:
    return replace(task(), also_inputs=((InputSpec("rand", (4096, 8)),),))


def bench(large_at_large: float = 1.0, **options: object) -> ShapedBench:
    sizes = {32: {SMALL: 2.0, LARGE: 3.0}, 32768: {SMALL: 4.0, LARGE: large_at_large}}
    return ShapedBench(
        {},
        synthesized=[candidate(SMALL), candidate(LARGE)],
        understanding=UNDERSTOOD,
        by_size=sizes,
        **options,  # type: ignore[arg-type]
    )


def run(found: ShapedBench, folder: Path) -> Study:
    return optimize_task(asked(), tools=found.tools(), study=folder / "s.sqlite")


def test_schedules_are_chosen_by_shape(tmp_path: Path) -> None:
    found = bench()
    study = run(found, tmp_path)
    assert study.best is not None
    assert '    (1024, {"BLOCK": 32, "num_warps": 2}),\n    (None, {"BLOCK": 128, "num_warps": 8}),' in (
        study.best.candidate.source
    )
    assert study.best.outcome is Outcome.KEPT
    assert found.calls["gate at 32"] == found.calls["gate at 32768"] == 1
    assert any("chosen by shape, at 4096x8 too" in note for note in study.notes)


def test_it_is_measured_where_the_target_is(tmp_path: Path) -> None:
    found = bench(installed=GPU)
    study = run(found, tmp_path)
    assert study.best is not None
    assert "SCHEDULES" in study.best.candidate.source
    assert study.best.timing is not None
    assert study.best.timing.label == "measured"
    assert found.calls["start"] == found.calls["close"] == 2  # a process for each shape


def test_one_schedule_that_serves_all_shapes_needs_no_table(tmp_path: Path) -> None:
    study = run(bench(large_at_large=3.99), tmp_path)
    assert study.best is not None
    assert study.best.candidate.source == SMALL
    assert any("one schedule serves all 2 shapes" in note for note in study.notes)


def test_a_table_that_is_wrong_at_a_shape_is_not_taken(tmp_path: Path) -> None:
    study = run(bench(refused_at=32768), tmp_path)
    assert study.best is not None
    assert study.best.candidate.source == SMALL
    assert any("no table of schedules by shape: wrong there" in note for note in study.notes)


def test_neighbours_with_one_schedule_share_a_row() -> None:
    a, b = candidate(SMALL), candidate(LARGE)
    one = merged(a, 1000, [(10, b), (100, a), (100_000, b)])
    assert one is not None
    assert [line.split(",")[0] for line in one.source.splitlines() if line.startswith("    (")] == [
        "    (32",
        "    (8192",
        "    (None",
    ]
    assert merged(a, 1000, [(10, a)]) is None
    assert merged(a, 1000, [(10, candidate(TEXT.replace("2.0", "3.0")))]) is None
