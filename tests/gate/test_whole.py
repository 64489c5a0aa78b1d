"""What a trace at the task's own sizes says: how elements are counted, and how findings read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright.gate.inside.trials import first_call
from tilewright.gate.inside.whole import Piece, _program, _spread
from tilewright.gate.judging.whole import whole_findings
from tilewright.sandbox.job import Part


@pytest.mark.parametrize("total", [1, 2, 7, 8, 9, 100, 4096, 1 << 24])
def test_a_sample_holds_the_first_and_the_last(total: int) -> None:
    chosen = _spread(total, 8)
    assert {0, total - 1} <= set(chosen)
    assert len(set(chosen)) == len(chosen) >= min(total, 8) - 2
    assert all(0 <= number < total for number in chosen)


def test_programs_are_numbered_along_axis_zero_first() -> None:
    assert [_program(number, (2, 3, 4)) for number in (0, 1, 2, 6, 23)] == [
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 2, 3),
    ]  # fmt: skip


def test_a_piece_is_read_exactly_or_at_most() -> None:
    flags = np.array([True, True, False, False])
    assert Piece(None, 4, flags, None).most("read") == 2
    assert Piece(None, 4, flags, None, reads=1).most("read") == 3
    assert Piece(None, 4, flags, None, reads=9).most("read") == 4
    assert Piece(None, 4, flags, None, reads=1).exact("read") is None


def _claim(**changes: Any) -> dict[str, Any]:
    claim = {
        "kind": "unread", "key": "", "name": "p_part of last", "role": "", "shape": [4096], "missing": 3072,
        "how": "", "low": 1024, "high": 4095,
    }  # fmt: skip
    return claim | changes


def test_findings_name_the_tensor_the_range_and_the_size() -> None:
    part = Part("whole", {"claims": [_claim()], "outside": []})
    (found,) = whole_findings(part)
    assert found.check == "coverage.unread"
    assert "3,072 of 4,096 elements of p_part of last (4096,) are never read, elements 1,024 to 4,095" in found.message


def test_findings_from_a_sample_say_what_they_count() -> None:
    how = "100 programs of act with at most 8 elements each"
    claim = _claim(kind="unwritten", role="output 0", how=how, low=None, high=None)
    (found,) = whole_findings(Part("whole", {"claims": [claim], "outside": []}))
    assert found.check == "coverage.unwritten"
    assert found.message.endswith(f"are never written: they are for {how}")


@pytest.mark.parametrize("data", [None, {}, {"claims": [{}], "outside": []}, {"claims": 3, "outside": []}])
def test_what_cannot_be_read_says_nothing(data: Any) -> None:
    assert whole_findings(Part("whole", data)) == []
    assert whole_findings(None) == []


class Tuner:
    """As much of an autotuner as a first call needs."""

    def __init__(self, count: int) -> None:
        self.configs = list(range(count))
        self.launched: list[int] = []
        self.do_bench: Any = "its own"

    def prune_configs(self, kwargs: dict[str, Any]) -> list[int]:
        return self.configs

    def run(self) -> None:
        times = {
            one: self.do_bench(lambda one=one: self.launched.append(one), quantiles=(0.5,)) for one in self.configs
        }
        self.launched.append(min(times, key=times.__getitem__))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_trials_are_odd_in_number_and_the_choice_wins(count: int) -> None:
    for choice in range(count):
        tuner = Tuner(count)
        first_call(tuner, Tuner.run, choice, (), {})
        assert set(tuner.launched[:-1]) == set(range(count))
        assert len(tuner.launched) % 2 == 0  # an odd number of trials, and the launch
        assert tuner.launched[-1] == choice
        assert tuner.do_bench == "its own"
