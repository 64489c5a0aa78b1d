"""A run's time, by a clock that the test turns."""

from __future__ import annotations

import pytest

from tilewright.search.budget import Budget
from tilewright.search.meter import Meter
from tilewright.search.progress import Pace, Step


class Hands:
    """A clock and a meter that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.meter = Meter()

    def budget(self, seconds: float, **options: float) -> Budget:
        return Budget(seconds, self.meter, now=lambda: self.now_s, **options)  # type: ignore[arg-type]

    def spend(self, activity: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = iter([0.0, seconds])
        with monkeypatch.context() as patch:
            patch.setattr("tilewright.search.meter.time.monotonic", lambda: next(ticks))
            with self.meter.on(activity):
                self.now_s += seconds


def test_nothing_new_is_begun_in_the_last_tenth() -> None:
    hands = Hands()
    budget = hands.budget(100.0)
    hands.now_s += 89.0
    assert (budget.elapsed_s, budget.left_s, budget.is_up) == (89.0, 11.0, False)
    hands.now_s += 2.0
    assert (budget.is_up, budget.is_over) == (True, False)
    hands.now_s += 20.0
    assert (budget.left_s, budget.is_over) == (0.0, True)


def test_what_took_longer_than_what_is_left_is_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    budget = hands.budget(100.0)
    assert budget.suffices_for("gate")
    hands.spend("gate", 20.0, monkeypatch)
    hands.spend("gate", 40.0, monkeypatch)
    assert budget.suffices_for("gate")  # 40 s are left
    hands.now_s += 1.0
    assert not budget.suffices_for("gate")
    assert budget.suffices_for("compile")


def test_the_clock_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    budget = hands.budget(100.0, gpu_s=30.0)
    hands.spend("compile", 31.0, monkeypatch)
    assert not budget.is_up
    hands.spend("measure", 31.0, monkeypatch)
    assert budget.is_up


def test_while_another_has_the_word_the_time_stands_still() -> None:
    hands = Hands()
    budget = hands.budget(100.0)
    hands.now_s += 50.0
    with budget.of_its_own() as allow:
        hands.now_s += 500.0
        allow(60.0)
        assert budget.left_s == 60.0
        hands.now_s += 30.0
    assert budget.left_s == 50.0


def test_every_step_says_what_is_left() -> None:
    hands, steps = Hands(), list[Step]()
    budget = hands.budget(100.0)
    pace = Pace(steps.append, 2, left=lambda: budget.left_s)
    pace.enter(0, "reading")
    hands.now_s += 25.0
    pace.say("still reading")
    assert [step.left_s for step in steps] == [100.0, 75.0]
