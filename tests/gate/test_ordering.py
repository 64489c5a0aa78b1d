"""Races between programs: what is one, and what is not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tilewright.gate.inside.accesses import AccessKind
from tilewright.gate.inside.ordering import Ordering

LOAD, STORE, ATOMIC = AccessKind.LOAD, AccessKind.STORE, AccessKind.ATOMIC


@dataclass
class Buffer:
    """Memory of float32, and the programs that touch it."""

    identity: int
    size: int = 32
    granule: int = 4
    values: torch.Tensor = field(init=False)
    written: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.values = torch.zeros(self.size)
        self.written = np.zeros(self.size, dtype=bool)

    @property
    def storage(self) -> torch.UntypedStorage:
        return self.values.untyped_storage()


class Launch:
    """Programs that run one after the other, as in the interpreter."""

    def __init__(self, programs: int = 8) -> None:
        self.ordering = Ordering()
        self.ordering.launch(programs)
        self.found: list[tuple[str, list[int]]] = []

    def program(self, number: int) -> Launch:
        self.ordering.program(number)
        return self

    def __call__(self, kind: AccessKind, buffer: Buffer, elements: list[int], value: float = 1.0) -> Launch:
        places = np.array(elements, dtype=np.int64)
        values = np.full(len(elements), value, dtype=np.float32) if kind is STORE else None
        for what, wrong in self.ordering.check(kind, buffer.identity, buffer, places, values):
            self.found.append((what, sorted(int(place) for place in wrong)))
        if kind is STORE:
            buffer.values[places] = value
        return self


def test_tiles_of_one_output_do_not_race() -> None:
    launch, out = Launch(), Buffer(1)
    for program in range(4):
        launch.program(program)(STORE, out, list(range(8 * program, 8 * program + 8)), float(program))
    assert launch.found == []


def test_other_values_race_and_the_same_value_is_one_too_many() -> None:
    launch, out = Launch(), Buffer(1)
    launch.program(0)(STORE, out, [0, 1, 2], 1.0)
    launch.program(1)(STORE, out, [2, 3], 1.0)
    assert launch.found == [("twice", [2])]
    launch.program(2)(STORE, out, [3, 4], 2.0)
    assert launch.found[1:] == [("race", [3])]


def test_one_store_with_two_values_for_one_element_races() -> None:
    launch, out = Launch(), Buffer(1)
    launch.program(0)
    found = list(launch.ordering.check(STORE, 1, out, np.array([0, 5, 5]), np.array([1.0, 2.0, 3.0], dtype=np.float32)))
    assert [what for what, _ in found] == ["race"]


def test_reading_what_another_program_stored_races() -> None:
    launch, out = Launch(), Buffer(1)
    launch.program(0)(STORE, out, [0])
    launch.program(1)(LOAD, out, [0])
    assert launch.found == [("race", [0])]


def test_storing_where_another_program_reads_races() -> None:
    launch, image = Launch(), Buffer(1)
    launch.program(0)(LOAD, image, [0])(STORE, image, [0], 2.0)
    launch.program(1)(LOAD, image, [1, 2])(STORE, image, [1], 3.0)
    assert launch.found == []
    launch.program(2)(STORE, image, [2], 4.0)
    assert launch.found == [("race", [2])]


def test_a_program_may_read_and_store_what_is_its_own() -> None:
    launch, out = Launch(), Buffer(1)
    launch.program(3)(STORE, out, [1], 1.0)(LOAD, out, [1])(STORE, out, [1], 2.0)
    assert launch.found == []


def test_a_counter_orders_what_came_before_it() -> None:
    launch, parts, count = Launch(), Buffer(1), Buffer(2)
    for program in range(4):
        launch.program(program)(STORE, parts, [program], float(program))(ATOMIC, count, [0])
    launch(LOAD, parts, [0, 1, 2, 3])
    assert launch.found == []


def test_a_store_after_the_counter_is_not_ordered_by_it() -> None:
    launch, parts, count = Launch(), Buffer(1), Buffer(2)
    launch.program(0)(ATOMIC, count, [0])(STORE, parts, [0])
    launch.program(1)(ATOMIC, count, [0])(LOAD, parts, [0])
    assert launch.found == [("race", [0])]


def test_a_block_is_told_of_by_a_counter_behind_a_barrier_alone() -> None:
    launch, parts, count = Launch(), Buffer(1), Buffer(2)
    launch.program(0)(STORE, parts, [0, 1])(ATOMIC, count, [0])
    launch.program(1)(ATOMIC, count, [0])(LOAD, parts, [1])
    assert launch.found == [("race", [1])]
    launch, parts, count = Launch(), Buffer(1), Buffer(2)
    launch.program(0)(STORE, parts, [0, 1])
    launch.ordering.meet()
    launch(ATOMIC, count, [0])
    launch.program(1)(ATOMIC, count, [0])(LOAD, parts, [1])
    assert launch.found == []


def test_a_counter_of_another_row_orders_nothing() -> None:
    launch, parts, count = Launch(), Buffer(1), Buffer(2)
    launch.program(0)(STORE, parts, [0])(ATOMIC, count, [0])
    launch.program(1)(ATOMIC, count, [1])(LOAD, parts, [0])
    assert launch.found == [("race", [0])]


def test_what_is_learnt_is_handed_on() -> None:
    launch, parts, count = Launch(), Buffer(1), Buffer(2)
    launch.program(0)(STORE, parts, [0])(ATOMIC, count, [0])
    launch.program(1)(ATOMIC, count, [0])(ATOMIC, count, [1])
    launch.program(2)(ATOMIC, count, [1])(LOAD, parts, [0])
    assert launch.found == []


def test_atomics_among_themselves_do_not_race_but_with_plain_stores_they_do() -> None:
    launch, total = Launch(), Buffer(1)
    launch.program(0)(ATOMIC, total, [0, 1])
    launch.program(1)(ATOMIC, total, [0, 1])
    assert launch.found == []
    launch.program(2)(STORE, total, [1], 5.0)
    assert [what for what, _ in launch.found] == ["race"]


def test_a_launch_orders_what_came_before_it() -> None:
    launch, out = Launch(), Buffer(1)
    launch.program(0)(STORE, out, [0], 1.0)
    launch.ordering.launch(4)
    launch.program(1)(LOAD, out, [0])(STORE, out, [0], 2.0)
    assert launch.found == []


@given(
    st.lists(st.tuples(st.sampled_from([LOAD, STORE, ATOMIC]), st.sets(st.integers(0, 31), min_size=1)), max_size=12)
)
def test_one_program_alone_never_races(steps: list[tuple[AccessKind, set[int]]]) -> None:
    launch, out = Launch(), Buffer(1)
    launch.program(0)
    for number, (kind, elements) in enumerate(steps):
        launch(kind, out, sorted(elements), float(number))
    assert launch.found == []


@given(st.data())
def test_disjoint_parts_never_race_in_any_order(data: st.DataObject) -> None:
    launch, out = Launch(), Buffer(1)
    for program in data.draw(st.permutations(range(8))):
        launch.program(program)
        own = st.integers(4 * program, 4 * program + 3)
        for kind in data.draw(st.lists(st.sampled_from([LOAD, STORE, ATOMIC]), max_size=4)):
            launch(kind, out, sorted(data.draw(st.sets(own, min_size=1))), float(program))
    assert launch.found == []


@pytest.mark.parametrize("kind", [LOAD, STORE])
def test_any_shared_element_is_found_whatever_else_is_touched(kind: AccessKind) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shared = int(rng.integers(0, 32))
        first = sorted({shared, *rng.integers(0, 16, 4).tolist()})
        launch, out = Launch(), Buffer(1)
        launch.program(0)(STORE, out, first, 1.0)
        launch.program(5)(kind, out, [shared], 2.0)
        assert ("race", [shared]) in launch.found
