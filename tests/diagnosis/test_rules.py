"""Each rule of the table: a forward pass in which it fires, and one like it in which it must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tilewright.diagnosis.diagnose import diagnose, in_short
from tilewright.diagnosis.facts import Collapse, Facts, Figure, KernelFacts, NativeFacts, Traffic, Unread
from tilewright.diagnosis.table import RULES
from tilewright.gpu.table import find_gpu
from tilewright.measure.launches import ProductShape
from tilewright.values import profile as m
from tilewright.values.candidate import Launch, LaunchArgument, NativeCall
from tilewright.values.diagnosis import Diagnosis
from tilewright.values.precision import PrecisionClass
from tilewright.values.profile import KernelProfile

GPU = find_gpu("4090")
MB = 1_000_000


def kernel(time_ms: float | None = 1.0, **given: object) -> KernelFacts:
    """A kernel with a modelled profile; metrics by their constants' names, fields by their own."""
    fields = {"registers": 32, "warps": 4, "active_blocks": 8, "duration_ms": time_ms}
    fields |= {name: value for name, value in given.items() if name in KernelProfile.__dataclass_fields__}
    own = {name: value for name, value in given.items() if name in KernelFacts.__dataclass_fields__}
    profile = KernelProfile("k", GPU.name, True, "model", **fields)  # type: ignore[arg-type]
    return KernelFacts("k", modelled=profile, **own)  # type: ignore[arg-type]


def busy(dram: float = 30.0, sm: float = 20.0, **more: float) -> dict[str, float]:
    return {m.DRAM_THROUGHPUT: dram, m.SM_THROUGHPUT: sm, m.GRID_SIZE: 10_000, **more}


def native(
    operation: str = "aten.convolution.default",
    time_ms: float = 1.0,
    operations: int = 10**9,
    between: int = 100 * MB,
    from_parameters: bool = False,
) -> NativeFacts:
    call = NativeCall(operation, ((8, 8),), ((8, 8),), 50 * MB, 100 * MB, operations)
    return NativeFacts(call, 0, Figure(time_ms, "modelled"), Traffic(50 * MB, 0, between), from_parameters)


def forward(*steps: KernelFacts | NativeFacts, **given: object) -> Facts:
    kernels = tuple(step for step in steps if isinstance(step, KernelFacts))
    calls = tuple(step for step in steps if isinstance(step, NativeFacts))
    total = sum(step.time_ms.value for step in steps if step.time_ms is not None)
    facts = Facts("task", GPU, PrecisionClass.TF32, kernels, calls, total_ms=Figure(total, "modelled"))
    return replace(facts, **given)  # type: ignore[arg-type]


def product(tile: tuple[int, int], size: int = 4096) -> dict[str, object]:
    """A product of three square matrices, in programs of `tile`."""
    pointers = tuple(LaunchArgument(name, "*fp16", shape=(size, size), stride=(size, 1)) for name in "abc")
    grid = (-(-size // tile[0]), -(-size // tile[1]), 1)
    launch = Launch("k", grid, pointers, 4, 3)
    return {"product": ProductShape((size, size, size), tile, 2), "launch": launch, "traffic": Traffic(100 * MB)}


COLLAPSE = Collapse(("mean of a convolution",), ("mean(conv) -> sums",), 0.1, 10**9, 10**5)
HALF = Traffic(100 * MB, read_between=100 * MB, maker="convolution")

#: rule -> (a forward pass in which it fires, one in which it must not)
CASES: dict[str, tuple[Callable[[], Facts], Callable[[], Facts]]] = {
    "unread": (
        lambda: forward(kernel(unread=(Unread("x", 0.125, "rows 32 to 255 of dim 2"),))),
        lambda: forward(kernel(unread=(Unread("x", 1.0, ""),))),
    ),
    "removed-by-algebra": (
        lambda: forward(native(time_ms=4.0), collapse=COLLAPSE),
        lambda: forward(native(time_ms=4.0), collapse=replace(COLLAPSE, operations_after=9 * 10**8)),
    ),
    "redone-on-every-call": (
        lambda: forward(native("aten.clone.default", 0.2, 0, from_parameters=True), kernel()),
        lambda: forward(native("aten.clone.default", 0.2, 0), kernel()),
    ),
    "native-operation": (
        lambda: forward(native(time_ms=2.0), kernel(1.0)),
        lambda: forward(native(time_ms=0.1), kernel(1.0)),
    ),
    "separate-passes": (
        lambda: forward(native("aten.relu.default", 0.3, 0), kernel(1.0)),
        lambda: forward(native("aten.relu.default", 0.01, 0), kernel(1.0)),
    ),
    "launch-gaps": (
        lambda: forward(kernel(0.05), gap_ms=Figure(0.02, "measured")),
        lambda: forward(kernel(5.0), gap_ms=Figure(0.02, "measured")),
    ),
    "idle-tensor-cores": (
        lambda: forward(kernel(metrics=busy(30, 90) | {m.TENSOR_PIPE: 0.0}, **product((64, 64)))),
        lambda: forward(kernel(metrics=busy(30, 90) | {m.TENSOR_PIPE: 55.0}, **product((64, 64)))),
    ),
    "small-tile": (
        lambda: forward(kernel(5.0, metrics=busy() | {m.TENSOR_PIPE: 20.0}, **product((64, 64)))),
        lambda: forward(kernel(5.0, metrics=busy() | {m.TENSOR_PIPE: 20.0}, **product((128, 128)))),
    ),
    "memory-roofline": (
        lambda: forward(kernel(metrics=busy(93.0), traffic=HALF)),
        lambda: forward(kernel(metrics=busy(70.0), traffic=HALF)),
    ),
    "too-few-programs": (
        lambda: forward(kernel(metrics=busy(17.0) | {m.GRID_SIZE: 32})),
        lambda: forward(kernel(metrics=busy(17.0) | {m.GRID_SIZE: 128})),
    ),
    "spills": (
        lambda: forward(kernel(spill_bytes=248, registers=255, instruction_mix={"local": 0.2})),
        lambda: forward(kernel(spill_bytes=0, registers=255)),
    ),
    "wasted-sectors": (
        lambda: forward(kernel(load_bytes_per_sector=4.0, traffic=Traffic(100 * MB, read=90 * MB))),
        lambda: forward(kernel(load_bytes_per_sector=4.0, traffic=Traffic(100 * MB, read=1 * MB, written=99 * MB))),
    ),
    "special-functions": (
        lambda: forward(kernel(limits={"special": 0.9, "dram": 0.5, "launch": 2.0})),
        lambda: forward(kernel(limits={"special": 0.4, "dram": 0.5})),
    ),
    "latency": (
        lambda: forward(kernel(metrics=busy(21.0, 9.0), traffic=Traffic(100 * MB))),
        lambda: forward(kernel(metrics=busy(65.0, 9.0), traffic=Traffic(100 * MB))),
    ),
    "register-limit": (
        lambda: forward(kernel(metrics=busy(), active_blocks=2, occupancy_limits={"registers": 2, "warps": 12})),
        lambda: forward(kernel(metrics=busy(), active_blocks=8, occupancy_limits={"registers": 8, "warps": 12})),
    ),
    "shared-limit": (
        lambda: forward(kernel(metrics=busy(), active_blocks=1, occupancy_limits={"shared memory": 1, "warps": 12})),
        lambda: forward(kernel(metrics=busy(), active_blocks=1, occupancy_limits={"shared memory": 2, "registers": 1})),
    ),
    "tail-wave": (
        lambda: forward(kernel(waves=1.1, metrics=busy(70.0))),
        lambda: forward(kernel(waves=1.98, metrics=busy(70.0))),
    ),
}


def rules_of(facts: Facts) -> set[str]:
    return {one.rule for one in diagnose(facts).diagnoses}


def test_every_rule_of_the_table_has_its_cases() -> None:
    assert set(CASES) == {rule.name for rule in RULES}
    for rule in RULES:
        assert rule.law
        assert rule.threshold.source


@pytest.mark.parametrize("name", CASES)
def test_a_rule_fires(name: str) -> None:
    fires, _ = CASES[name]
    [found] = [one for one in diagnose(fires()).diagnoses if one.rule == name]
    first = found.evidence[0]
    assert first.threshold is not None
    assert first.source
    assert first.label in ("measured", "modelled", "counted")
    for text in (found.title, found.message, found.remedy):
        assert text.strip()
    if found.cost_ms is not None:
        assert found.cost_ms >= 0
        assert found.cost_label in ("measured", "modelled")


@pytest.mark.parametrize("name", CASES)
def test_a_rule_stays_silent(name: str) -> None:
    _, silent = CASES[name]
    assert name not in rules_of(silent())


def test_what_algebra_removes_needs_no_roofline() -> None:
    facts = forward(native(time_ms=4.0), kernel(metrics=busy(93.0), traffic=HALF), collapse=COLLAPSE)
    assert rules_of(facts) == {"removed-by-algebra"}
    assert {"native-operation", "memory-roofline"} <= rules_of(replace(facts, collapse=None))


def test_wrong_comes_first_then_what_costs_most() -> None:
    facts = forward(
        native(time_ms=3.0),
        kernel(metrics=busy(93.0), traffic=HALF, unread=(Unread("x", 0.5, "rows 2 to 3"),)),
    )
    report = diagnose(facts)
    assert report.diagnoses[0].wrong
    costs = [one.cost_ms for one in report.diagnoses[1:] if one.cost_ms is not None]
    assert costs == sorted(costs, reverse=True)
    assert "rows 2 to 3" in report.summary.split(";")[0]


def test_costs_are_parts_of_the_forward_pass() -> None:
    facts = forward(native(time_ms=3.0), kernel(1.0, metrics=busy(93.0), traffic=HALF))
    by_rule = {one.rule: one for one in diagnose(facts).diagnoses}
    # Half of the kernel's bytes are what the convolution wrote: half of its millisecond.
    assert by_rule["memory-roofline"].cost_ms == pytest.approx(0.5)
    assert by_rule["memory-roofline"].share == pytest.approx(0.125)


def test_the_measured_figure_goes_before_the_modelled_one() -> None:
    measured = KernelProfile("k", GPU.name, False, "document", metrics={m.DRAM_THROUGHPUT: 93.0})
    facts = forward(replace(kernel(metrics=busy(10.0)), measured=measured))
    [found] = [one for one in diagnose(facts).diagnoses if one.rule == "memory-roofline"]
    assert (found.evidence[0].value, found.evidence[0].label) == (93.0, "measured")


def test_metrics_alone_are_enough_for_the_rules_that_need_no_more() -> None:
    metrics = {m.DRAM_THROUGHPUT: 17.5, m.SM_THROUGHPUT: 2.2, m.GRID_SIZE: 32.0}
    measured = KernelProfile("k", GPU.name, False, "document", metrics=metrics)
    report = diagnose(forward(KernelFacts("k", measured=measured), total_ms=None))
    assert [one.rule for one in report.diagnoses] == ["too-few-programs"]
    assert report.diagnoses[0].cost_ms is None


def test_a_part_of_the_work_costs_as_much_as_the_whole() -> None:
    whole = kernel(1.0, metrics=busy(20.0, 9.0), traffic=Traffic(100 * MB))
    part = replace(whole, unread=(Unread("x", 0.25, "the rest"),))
    [a], [b] = ([one for one in diagnose(forward(k)).diagnoses if one.rule == "latency"] for k in (whole, part))
    assert a.cost_ms is not None
    assert b.cost_ms is not None
    assert b.cost_ms > 3 * a.cost_ms


def test_a_kernel_that_takes_no_time_holds_nothing_back() -> None:
    small = kernel(0.05, metrics=busy(93.0), traffic=HALF, unread=(Unread("x", 0.5, "the rest"),))
    assert rules_of(forward(native(time_ms=3.0), small)) == {"unread", "native-operation"}


def test_a_measured_throughput_and_modelled_bytes_give_a_time() -> None:
    measured = KernelProfile("k", GPU.name, False, "document", metrics={m.DRAM_THROUGHPUT: 20.0})
    seen = replace(kernel(0.1, dram_read_bytes=100e6), measured=measured, bandwidth_gb_s=1000.0)
    assert seen.time_ms is not None
    assert (seen.time_ms.value, seen.time_ms.label) == (pytest.approx(0.5), "modelled")
    assert replace(seen, measured=None).time_ms == Figure(0.1, "modelled")


def test_a_library_product_that_is_as_fast_as_a_kernel_would_be_is_left_alone() -> None:
    at_peak = native("aten.mm.default", 1.0, operations=int(0.9e-3 * 82.6e12 / 2), between=0)
    assert "native-operation" in rules_of(forward(at_peak, kernel(1.0)))
    assert "native-operation" not in rules_of(forward(native("aten.mm.default", 1.0, int(41.3e9), 0), kernel(1.0)))


def test_a_kernel_at_the_roofline_with_nothing_to_fuse_is_done() -> None:
    [found] = diagnose(forward(kernel(metrics=busy(93.0), traffic=Traffic(100 * MB, 0, 1 * MB)))).diagnoses
    assert found.cost_ms is None
    assert found.remedy.startswith("Nothing in this kernel")


def test_in_short_has_cause_cost_and_remedy() -> None:
    text = in_short(diagnose(forward(native(time_ms=3.0), kernel(metrics=busy(93.0), traffic=HALF))))
    assert text.count("\n- ") == 1
    assert "Costs up to" in text
    assert "(modelled)" in text


def test_nothing_found_is_said() -> None:
    assert diagnose(forward(kernel(metrics=busy(70.0)))).summary == "Nothing was found that holds it back."
    assert isinstance(diagnose(forward()).diagnoses, tuple)
    assert not [one for one in diagnose(forward()).diagnoses if isinstance(one, Diagnosis)]
