"""Warps, stages, autotune lists and tiles: single edits, the stage's rules, and what must not be touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest

from tests.proposers.retune_cases import case, rules, task_of
from tilewright.gpu.table import find_gpu
from tilewright.proposers.retune import retune
from tilewright.proposers.retune.conditions import advice_for, holds
from tilewright.proposers.retune.edit import Context, Proposal, subject_of
from tilewright.proposers.retune.schedule_edits import conform, insert_autotune, resolve_autotune, warps_and_stages
from tilewright.proposers.retune.stage_check import changes_between, stage_findings
from tilewright.proposers.retune.tile_edits import retile, settings_of
from tilewright.proposers.retune.tiles import free_tiles
from tilewright.values.verdict import KernelResources

AUTOTUNED = """import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.autotune(
    configs=[
        triton.Config({"BLOCK": 256}, num_warps=2, num_stages=4),  # small
        triton.Config({"BLOCK": 1024}, num_warps=8, num_stages=2),
        triton.Config({"BLOCK": 2048}, num_warps=16, num_stages=2),
    ],
    key=["n"],
)
@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < n)
    tl.store(out_ptr + offsets, x * 2.0, mask=offsets < n)


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        n = x.numel()
        double_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, out, n)
        return out
"""


def context(stage: str = "memory_access", resources: tuple[KernelResources, ...] = (), **changes: object) -> Context:
    return Context(rules(stage, **changes), find_gpu("4090"), resources)


def compiled(kernel: str, registers: int, *, spills: int = 0, shared: int = 0, warps: int = 4) -> KernelResources:
    return KernelResources(kernel, 89, registers, spills, shared, warps)


def applied(edit: object, source: str, kernel: str, given: Context | None = None) -> list[Proposal]:
    subject = subject_of(source, kernel)
    assert subject is not None
    found: Iterable[Proposal] = edit(subject, given or context())  # type: ignore[operator]
    return list(found)


def test_warps_are_set_at_the_launch_and_nothing_else_moves() -> None:
    source = case("row_sum").source
    found = next(p for p in applied(warps_and_stages, source, "row_sum_kernel") if "4 warps and 3" in p.description)
    assert found.source == source.replace("num_warps=1)", "num_warps=4, num_stages=3)")


def test_resolving_a_list_moves_its_values_to_the_launch() -> None:
    first = applied(resolve_autotune, AUTOTUNED, "double_kernel")[0].source
    assert "autotune" not in first
    assert "(x, out, n, BLOCK=256, num_warps=2, num_stages=4)" in first


def test_a_list_whose_configurations_have_hooks_is_not_resolved() -> None:
    hooked = AUTOTUNED.replace("num_stages=4)", "num_stages=4, pre_hook=clear)")
    assert len(applied(resolve_autotune, hooked, "double_kernel")) == 2


def test_a_list_is_not_resolved_where_the_kernel_is_used_elsewhere() -> None:
    used = AUTOTUNED.replace("        return out", "        print(double_kernel.best_config)\n        return out")
    assert applied(resolve_autotune, used, "double_kernel") == []


def test_a_list_moves_into_the_rules_with_the_baseline() -> None:
    given = rules("advanced_memory")
    conformed = conform(AUTOTUNED, given)
    assert not [f for f in stage_findings(AUTOTUNED, conformed, given) if f.check != "stage.change"]
    assert conformed.count("triton.Config") == 3
    assert "num_warps=4, num_stages=2" in conformed
    assert stage_findings(AUTOTUNED, AUTOTUNED, given)


def test_an_inserted_list_is_keyed_on_sizes() -> None:
    (found,) = applied(insert_autotune, case("matmul").source, "matmul_kernel")
    assert 'key=["M", "N", "K"]' in found.source
    assert "num_warps" not in found.source.split("def matmul(")[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tl.store(out_ptr + row, total)", "tl.atomic_add(out_ptr + row, total)"),
        ("tl.store(out_ptr + row, total)", "tl.store(x_ptr + row, total)"),
        ("(x, out, columns", "(x, x, columns"),
    ],
    ids=["atomics", "in place", "one tensor twice"],
)
def test_no_list_where_running_twice_is_not_running_once(old: str, new: str) -> None:
    source = case("row_sum").source
    assert applied(insert_autotune, source, "row_sum_kernel")
    assert applied(insert_autotune, source.replace(old, new), "row_sum_kernel") == []


FREE = {
    "softmax": [],
    "layer_norm": ["BLOCK"],
    "matmul": ["BLOCK_M", "BLOCK_N", "BLOCK_K"],
    "transpose": ["BLOCK_M", "BLOCK_N"],
    "row_sum": ["BLOCK"],
    "column_sum": ["BLOCK"],
    "stencil": ["BLOCK"],
    "pointwise_4d": ["BLOCK"],
}


@pytest.mark.parametrize("name", FREE)
def test_free_tiles(name: str) -> None:
    source = case(name).source
    kernel = source.split("def ")[1].split("(")[0]
    subject = subject_of(source, kernel)
    assert subject is not None
    assert [tile.name for tile in free_tiles(subject.flow)] == FREE[name]


def test_a_tile_whose_range_no_loop_moves_is_not_free() -> None:
    """The loop runs, and its variable is never used: another tile would read another part."""
    source = case("row_sum").source.replace("i * BLOCK + tl.arange(0, BLOCK)", "tl.arange(0, BLOCK)")
    subject = subject_of(source, "row_sum_kernel")
    assert subject is not None
    assert free_tiles(subject.flow) == ()


def test_a_tile_that_the_grid_does_not_follow_stays() -> None:
    source = case("stencil").source.replace("triton.cdiv(total, block)", "triton.cdiv(total, 256)")
    subject = subject_of(source, "stencil_kernel")
    assert subject is not None
    assert settings_of(subject) == ()


def test_a_size_written_at_the_launch_and_in_the_grid_changes_in_both() -> None:
    for found in applied(retile, case("pointwise_4d").source, "scale_shift_kernel"):
        size = found.description.split("BLOCK ")[1].split()[0]
        assert f"triton.cdiv(x.numel(), {size})" in found.source
        assert f"BLOCK={size}" in found.source


def test_starved_grids_get_smaller_tiles_first() -> None:
    source = case("pointwise_4d").source
    metrics = {"scale_shift_kernel": {"launch__grid_size": 64.0}}
    found = applied(retile, source, "scale_shift_kernel", dataclasses.replace(context(), metrics=metrics))
    assert found[0].gain > 1
    assert int(found[0].description.split("BLOCK ")[1].split()[0]) < 128


def test_the_conservative_baseline_is_among_the_first_three() -> None:
    for name in ("matmul", "row_sum", "stencil"):
        given = rules("memory_and_tuning")
        source = case(name).source
        found = retune(task_of(source, given), source, given, ())[:3]
        assert any("num_warps=4" in c.source and "num_stages=2" in c.source for c in found)


CONDITIONS = (
    ("register pressure LOW (regs < 96, no spill)", compiled("k", 40), 1, True),
    ("register pressure LOW (regs < 96, no spill)", compiled("k", 40, spills=8), 1, False),
    ("register pressure LOW (regs < 96, no spill)", compiled("k", 96), 1, False),
    ("register pressure HIGH (regs > 128 or occupancy_limit_registers)", compiled("k", 129), 1, True),
    ("register pressure HIGH (regs > 128 or occupancy_limit_registers)", compiled("k", 100), 1, True),
    ("register pressure HIGH (regs > 128 or occupancy_limit_registers)", compiled("k", 32), 1, False),
    ("register pressure HIGH (regs > 128 or occupancy_limit_registers)", compiled("k", 64, shared=49152), 1, False),
    ("multi-input fusion (3+ distinct loads)", None, 3, True),
    ("multi-input fusion (three or 3 or more loads)", None, 3, True),
    ("multi-input fusion (3+ distinct loads)", None, 2, False),
    ("a moon that is full", compiled("k", 40), 1, False),
)


@pytest.mark.parametrize(("when", "resources", "loads", "expected"), CONDITIONS)
def test_conditions(when: str, resources: KernelResources | None, loads: int, expected: bool) -> None:
    given = context("advanced_memory", (resources,) if resources else ())
    assert holds(when, "k", loads, given) is expected


def test_binding_advice_leaves_one_value_and_the_rest_orders() -> None:
    high = advice_for("k", 1, context("advanced_memory", (compiled("k", 200),)))
    assert (high.num_warps, high.num_stages) == ((4,), (2,))
    low = advice_for("k", 1, context("advanced_memory", (compiled("k", 30),)))
    assert (low.num_warps, low.num_stages) == ((8, 4), (3, 2))
    many = advice_for("k", 4, context("advanced_memory", (compiled("k", 30),)))
    assert (many.num_warps, many.num_stages) == ((4, 8), (2, 3))


def test_high_pressure_keeps_to_four_warps() -> None:
    source = case("row_sum").source
    given = rules("advanced_memory")
    resources = (compiled("row_sum_kernel", 200),)
    found = retune(task_of(source, given), source, given, resources)
    assert found
    assert all("num_warps=8" not in candidate.source for candidate in found)


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("num_warps=1", "num_warps=8", "num_warps"),
        ("columns), 128)", "columns), 256)", "tile size"),
        ("row_sum_kernel[(rows,)]", "row_sum_kernel[(rows, 1)]", "grid"),
        ("total = 0.0", "total = 1.0", "kernel body"),
        ("other=0.0)", "other=0.0, eviction_policy='evict_first')", "memory hint"),
        ("columns, BLOCK: tl", "columns: tl.constexpr, BLOCK: tl", "constexpr argument"),
        ("torch.empty(rows", "torch.zeros(rows", "host code"),
        ("row = tl.program_id(0)", "row = tl.num_programs(0) - 1 - tl.program_id(0)", "program order"),
    ],
)
def test_the_check_names_what_changed(old: str, new: str, change: str) -> None:
    source = case("row_sum").source
    edited = source.replace(old, new)
    assert edited != source
    assert change in {found.value for found in changes_between(source, edited)}
    assert any(change in f.message for f in stage_findings(source, edited, rules("advanced_memory"))) == (
        change not in ("num_warps", "memory hint")
    )


def test_a_changed_constructor_is_outside_every_stage() -> None:
    source = case("pointwise_4d").source
    edited = source.replace("def __init__(self, channels)", "def __init__(self, channels, more=0)")
    assert any(f.check == "stage.interface" for f in stage_findings(source, edited, rules("memory_access")))
