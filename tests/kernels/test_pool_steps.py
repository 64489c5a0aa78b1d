"""Steps of a window along the contiguous dim: which taps are loaded together."""

from __future__ import annotations

import pytest

from tilewright.kernels.pool.plan import WindowDim
from tilewright.kernels.pool.steps import steps_of


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (WindowDim(2, 2), [("lanes", 0, 2)]),
        (WindowDim(4, 4), [("lanes", 0, 4)]),
        (WindowDim(3, 2, 1), [("lanes_before_1", 1, 1), ("lanes", 0, 2)]),
        (WindowDim(3, 2), [("lanes", 0, 2), ("lanes_after_1", 0, 1)]),
        (WindowDim(3, 4, 1), [("lanes_before_1", 3, 1), ("lanes", 0, 2)]),
        (WindowDim(5, 2, 2), [("lanes_before_1", 0, 2), ("lanes", 0, 2), ("lanes_after_1", 0, 1)]),
    ],
)
def test_taps_fall_into_blocks(dim: WindowDim, expected: list[tuple[str, int, int]]) -> None:
    steps = steps_of(dim)
    assert [(step.name, step.low, step.taps) for step in steps] == expected
    taps = [column for step in steps for column in range(step.first, step.first + step.taps)]
    assert taps == list(range(-dim.padding, dim.size - dim.padding))


@pytest.mark.parametrize(
    "dim",
    [
        WindowDim(output=7),
        WindowDim(3, 1, 1),
        WindowDim(3, 3),
        WindowDim(3, 2, 1, 2),
        WindowDim(1, 2),
        WindowDim(7, 2, 3),
    ],
)
def test_other_windows_are_walked_tap_by_tap(dim: WindowDim) -> None:
    assert steps_of(dim) == ()
