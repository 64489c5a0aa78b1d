"""Barriers that a program lacks: what needs one, and what does not."""

from __future__ import annotations

import numpy as np

from tilewright.gate.inside.accesses import AccessKind
from tilewright.gate.inside.barriers import Barriers, Block

LOAD, STORE, ATOMIC = AccessKind.LOAD, AccessKind.STORE, AccessKind.ATOMIC
ROW = list(range(8))


class Program:
    """Accesses of one program, as the interpreter makes them."""

    def __init__(self, warps: int = 4) -> None:
        self.barriers = Barriers()
        self.barriers.launch(warps)
        self.found: list[list[int]] = []

    def __call__(
        self, kind: AccessKind, elements: list[int], memory: int = 1, shape: tuple[int, ...] | None = None
    ) -> Program:
        lanes = np.arange(len(elements), dtype=np.int64)
        block = Block(np.array(elements, dtype=np.int64), lanes, shape or (len(elements),))
        for wrong in self.barriers.check(kind, memory, block, given=False):
            self.found.append(sorted(wrong.tolist()))
        return self

    def barrier(self) -> Program:
        self.barriers.meet()
        return self

    def reduction(self) -> Program:
        self.barriers.exchange()
        return self


def test_what_another_lane_stored_needs_a_barrier() -> None:
    assert Program()(STORE, ROW)(LOAD, ROW[::-1]).found == [ROW]
    assert Program()(STORE, ROW).barrier()(LOAD, ROW[::-1]).found == []


def test_what_the_same_lane_stored_does_not() -> None:
    assert Program()(STORE, ROW)(LOAD, ROW)(STORE, ROW)(LOAD, ROW).found == []


def test_blocks_of_another_shape_lie_elsewhere() -> None:
    assert Program()(STORE, ROW)(LOAD, ROW, shape=(2, 4)).found == [ROW]


def test_other_memory_and_other_elements_do_not_matter() -> None:
    assert Program()(STORE, ROW)(LOAD, ROW[::-1], memory=2)(LOAD, [8, 9, 10, 11]).found == []


def test_a_store_waits_for_the_loads_of_others() -> None:
    assert Program()(LOAD, ROW[::-1])(STORE, ROW).found == [ROW]
    assert Program()(LOAD, ROW[::-1]).barrier()(STORE, ROW).found == []


def test_a_reduction_comes_after_all_loads_and_is_no_barrier_for_stores() -> None:
    assert Program()(LOAD, ROW[::-1]).reduction()(STORE, ROW).found == []
    assert Program()(STORE, ROW).reduction()(LOAD, ROW[::-1]).found == [ROW]


def test_a_scalar_that_one_thread_stored_is_loaded_by_all() -> None:
    assert Program()(LOAD, ROW, memory=2)(STORE, [0])(LOAD, [0]).found == [[0]]
    assert Program()(STORE, [0])(LOAD, [0]).found == []  # no block over which it could be spread
    assert Program()(LOAD, ROW, memory=2)(LOAD, [0])(STORE, [0]).found == []


def test_the_result_of_a_scalar_atomic_is_handed_out_behind_a_barrier() -> None:
    assert Program()(STORE, ROW)(ATOMIC, [0], memory=2)(LOAD, ROW[::-1]).found == []


def test_one_warp_keeps_step() -> None:
    assert Program(warps=1)(STORE, ROW)(LOAD, ROW[::-1]).found == []


def test_another_program_starts_anew() -> None:
    program = Program()(STORE, ROW)
    program.barriers.program()
    assert program(LOAD, ROW[::-1]).found == []
