"""A fleet on this machine's CPUs: work is dealt out, and done again where a worker was lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tilewright.search import fleet_tools as tools_module
from tilewright.search.fleet import STARTS, Fleet, FleetError
from tilewright.search.fleet_tools import FleetClock, fleet_tools
from tilewright.search.tools import Prediction, Tools
from tilewright.suite.results import Fate
from tilewright.suite.run import Settings, run_suite

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'tilewright[fleet]'")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    # Functions of this file travel by value: the workers cannot import it.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with Fleet(2) as found:
        yield found


def square(number: int) -> int:
    return number * number


def fail(message: str) -> None:
    raise ValueError(message)


def die_once(mark: str) -> str:
    """Ends its worker the first time it is called."""
    if not os.path.exists(mark):
        Path(mark).touch()
        os._exit(9)
    return "done"


def die() -> None:
    os._exit(9)


def test_results_come_from_all_jobs(fleet: Fleet) -> None:
    assert fleet.size == 2
    assert fleet.gpus == 0
    assert dict(fleet.each(square, [(number,) for number in range(7)])) == {n: n * n for n in range(7)}


def test_what_a_function_raises_is_raised_here(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="as said"):
        fleet.call(fail, "as said")


def test_a_lost_worker_costs_a_new_start(fleet: Fleet, tmp_path: Path) -> None:
    jobs = [(str(tmp_path / str(number)),) for number in range(3)]
    assert dict(fleet.each(die_once, jobs)) == {0: "done", 1: "done", 2: "done"}
    assert fleet.call(square, 3) == 9


def test_what_ends_every_worker_is_given_up(fleet: Fleet) -> None:
    with pytest.raises(FleetError, match=f"{STARTS} workers"):
        fleet.call(die)
    [(_, lost)] = fleet.each(die, [()])
    assert isinstance(lost, FleetError)
    assert fleet.call(square, 3) == 9


def test_tools_of_a_search_are_sent(fleet: Fleet) -> None:
    own = Tools(predict=lambda task, candidate: Prediction(None), gate=lambda task, candidate, effort, say: effort)  # type: ignore[arg-type, return-value]
    sent = fleet_tools(fleet, own)
    assert sent.predict("task", "candidate") == Prediction(None)  # type: ignore[arg-type]
    assert sent.gate("task", "candidate", "quick", print) == "quick"  # type: ignore[arg-type]
    assert isinstance(sent.open_clock("task"), FleetClock)  # type: ignore[arg-type]


def test_a_batch_is_dealt_out_and_joined(fleet: Fleet) -> None:
    own = Tools(open_clock=FakeClock)  # type: ignore[arg-type]
    report = FleetClock(fleet, own, "task").measure([f"c{number}" for number in range(9)], "quick")  # type: ignore[arg-type, list-item]
    assert set(report.measured) == {"reference", *(f"c{number}" for number in range(9))}
    assert report.failures == {"c3": "it failed"} or "c3" in report.measured
    assert tools_module._WORTH_A_WORKER <= 4


class FakeClock:
    """Measures nothing, and says so of everything."""

    def __init__(self, task: object) -> None:
        self.task = task

    def measure(self, candidates: list[str], plan: str, peers: object = (), peers_s: float = 0.0) -> object:
        from tilewright.measure.clock import ClockReport
        from tilewright.values.measurement import Measured

        time = Measured(1.0, 1.0, 1.0, 5, "none", plan)
        return ClockReport({"reference": time, **dict.fromkeys(candidates, time)})

    def close(self) -> None:
        pass


def test_bad_tasks_of_a_suite_come_back_as_such(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for number in range(3):
        (folder / f"document_{number}.txt").write_text("no code in it")
    results = run_suite(folder, tmp_path / "out", Settings(gpu="4090"), fleet=fleet)
    assert [result.fate for result in results] == [Fate.BAD_INPUT] * 3
    assert "code" in results[0].reason


def test_without_ray_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FleetError, match="fleet"):
        Fleet()
