"""The address trace: which elements of which argument each program loads and stores."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.gate.corpus.cases import RIGHT, reference_path
from tilewright.gate.inside.accesses import AccessKind, Sample, TracedLaunch
from tilewright.gate.stages.trace import Trace, trace
from tilewright.task.load import load_task
from tilewright.task.task import InputSpec
from tilewright.values.candidate import Candidate, Origin

ALL = Sample()


@cache
def traced(name: str, sample: Sample = ALL, with_data: bool = False) -> Trace:
    case = next(case for case in RIGHT if case.name == name)
    task = load_task(reference_path(case.reference), gpu="rtx-4090")
    return trace(task, Candidate(case.source, Origin.FILE, name), task.gpu, sample, with_data=with_data)


def touched(launch: TracedLaunch, argument: str, *kinds: AccessKind) -> set[int]:
    """Elements of an argument that any program touched."""
    chosen = [access for access in launch.accesses if access.argument == argument and access.kind in kinds]
    return {int(offset) for access in chosen for offset in access.offsets[access.mask]}


@pytest.mark.parametrize("case", [case for case in RIGHT if case.quick or "block_pointers" in case.name], ids=str)
def test_every_element_of_every_tensor_is_accounted_for(case) -> None:
    found = traced(case.name, with_data=True)
    assert not found.problem
    assert found.launches
    for launch in found.launches:
        assert launch.complete
        assert len(launch.programs) == np.prod(launch.grid)
        names = {tensor.argument for tensor in launch.tensors}
        assert {access.argument for access in launch.accesses} <= names
        for tensor in launch.tensors:
            elements = touched(launch, tensor.argument, *AccessKind)
            assert min(elements) >= 0
            assert max(elements) < 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))


def test_a_plain_kernel_reads_and_writes_each_element_once() -> None:
    (launch,) = traced("plain_tail_mask").launches
    stored = next(access.argument for access in launch.accesses if access.kind is AccessKind.STORE)
    tensor = launch.tensor(stored)
    assert tensor is not None
    count = int(np.prod(tensor.shape))
    written = [access.offsets[access.mask] for access in launch.accesses if access.kind is AccessKind.STORE]
    assert sorted(np.concatenate(written).tolist()) == list(range(count))
    assert [access.order for access in launch.accesses if access.program == (0, 0, 0)] == list(
        range(len(launch.accesses) // len(launch.programs))
    )


def test_lines_point_into_the_source() -> None:
    case = next(case for case in RIGHT if case.name == "helper_functions")
    lines = case.source.splitlines()
    accesses = [access for launch in traced("helper_functions").launches for access in launch.accesses]
    assert accesses
    for access in accesses:
        assert access.kind.value in lines[access.line - 1]


def test_atomics_are_told_apart() -> None:
    kinds = {access.kind for launch in traced("atomic_split_sum").launches for access in launch.accesses}
    assert AccessKind.ATOMIC in kinds


def test_full_sizes_cost_no_memory_and_a_sample_is_a_sample() -> None:
    task = load_task(reference_path("bias_gelu"), gpu="rtx-4090")
    assert task.reference is not None
    shape = (1 << 20, 1 << 14)
    huge = replace(task, reference=replace(task.reference, init_args=(shape[1],), inputs=(InputSpec("rand", shape),)))
    case = next(case for case in RIGHT if case.name == "wide_offsets")
    found = trace(huge, Candidate(case.source, Origin.FILE, ""), huge.gpu, Sample(groups=3, size=2))
    assert not found.problem
    (launch,) = found.launches
    assert len(launch.programs) == 6
    assert launch.programs[0] == (0, 0, 0)
    assert launch.programs[-1] == (launch.grid[0] - 1, 0, 0)
    assert max(int(access.offsets.max()) for access in launch.accesses) > 1 << 33


def test_what_fails_is_told_and_what_ran_before_is_kept() -> None:
    case = next(case for case in RIGHT if case.name == "plain_tail_mask")
    task = load_task(reference_path(case.reference), gpu="rtx-4090")
    broken = case.source.replace(
        "    def forward", "    def forward(self, x):\n        return 1 / 0\n\n    def unused", 1
    )
    found = trace(task, Candidate(broken, Origin.FILE, ""), task.gpu, ALL)
    assert "ZeroDivisionError" in found.problem
    assert found.launches == ()


@pytest.mark.parametrize(
    ("sample", "programs", "chosen"),
    [
        (Sample(), 5, None),
        (Sample(1, 2), 5, {0, 1}),
        (Sample(2, 2), 9, {0, 1, 7, 8}),
        (Sample(3, 1), 9, {0, 4, 8}),
        (Sample(3, 3), 9, None),
    ],
)
def test_samples_spread_over_the_launch(sample: Sample, programs: int, chosen: set[int] | None) -> None:
    assert sample.chosen(programs) == (None if chosen is None else frozenset(chosen))
