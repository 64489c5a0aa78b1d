"""Probes: which dimensions vary, and sizes on both sides of every constant."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

from tilewright.gate.inside.oracle import Oracle
from tilewright.gate.inside.oracle import run as oracle_entry
from tilewright.gate.inside.probe_plan import make_plan
from tilewright.gate.probes import draws, planning
from tilewright.gate.probes.planning import EFFORTS, Family, Plan
from tilewright.gate.reference.subject import ReducedProducts, Subject, round_operand
from tilewright.task.task import InputSpec, ModuleSource

CONVOLUTION = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels, width, kernel_size):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, width, kernel_size, 2)

    def forward(self, x):
        return torch.relu(self.conv(x)).sum(dim=2)
"""

ADDED = """
import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x, y, scale):
        return (x + y) * scale
"""

PATCHES = """
import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], -1, 8).amax(dim=2)
"""


def source(text: str, init: Sequence[Any], *shapes: tuple[int, ...], scalar: float | None = None) -> ModuleSource:
    inputs = [InputSpec("rand", shape) for shape in shapes]
    if scalar is not None:
        inputs.append(InputSpec("literal", value=scalar))
    return ModuleSource(text, "Model", init_args=tuple(init), inputs=tuple(inputs))


def planned(given: ModuleSource, *constants: int, effort: str = "quick") -> tuple[Plan, Oracle]:
    oracle = Oracle(Subject.of(given), "ieee", "cpu")
    return make_plan(oracle, constants, EFFORTS[effort]), oracle


def groups_of(given: ModuleSource) -> list[tuple[planning.Member, ...]]:
    oracle = Oracle(Subject.of(given), "ieee", "cpu")
    trace = planning.Tracer(oracle.subject, oracle.template)
    found = planning.find_groups(trace, oracle.subject.own_arguments, oracle.template)
    groups, _ = planning.settle(trace, oracle.subject.own_arguments, found)
    return [group.members for group in groups]


def test_dimensions_that_vary_alone() -> None:
    assert groups_of(source(CONVOLUTION, (8, 6, 3), (4, 8, 10, 12))) == [((0, 0),), ((0, 2),), ((0, 3),)]


def test_dimensions_that_vary_together() -> None:
    given = source(ADDED, (), (4, 10), (4, 10), scalar=2.0)
    assert groups_of(given) == [((0, 0), (1, 0)), ((0, 1), (1, 1))]


def test_dimensions_that_vary_in_steps() -> None:
    assert groups_of(source(PATCHES, (), (4, 64))) == [((0, 0),), ((0, 1),)]


def test_sizes_lie_on_both_sides_of_each_constant() -> None:
    plan, _ = planned(source(CONVOLUTION, (8, 6, 3), (4, 8, 10, 12)), 32)
    values = {
        dict(probe.quantities)["dim 2 of convolution's output"] for probe in plan.probes if probe.family is Family.SIZE
    }
    # The height doubles and grows by one: 31 is the last within 32, 33 the first beyond.
    assert {31, 33} <= values
    flat = {
        dict(probe.quantities)["inner size of convolution's output"]
        for probe in plan.probes
        if probe.family is Family.SIZE
    }
    assert any(value <= 32 for value in flat)
    assert any(value > 32 for value in flat)


def test_constructor_arguments_that_are_sizes_go_beyond_every_constant() -> None:
    plan, oracle = planned(source(CONVOLUTION, (8, 6, 3), (4, 8, 10, 12)), 32, 128)
    changed = [plan.constructors[p.constructor] for p in plan.probes if p.family is Family.CONSTRUCTOR]
    assert (131, 6, 3) in changed
    assert (8, 131, 3) in changed
    # The kernel's size is no size of the data: it is varied once, as an option.
    assert [arguments for arguments in changed if arguments is not None and arguments[2] != 3] == [(8, 6, 4)]
    for probe in plan.probes:
        answer = oracle.answer(plan, probe)
        assert all(torch.isfinite(torch.tensor(one.norm)) for errors in answer.errors.values() for one in errors)


def test_constructor_arguments_also_lie_on_a_constant() -> None:
    plan, _ = planned(source(CONVOLUTION, (8, 6, 3), (4, 8, 10, 12)), 64)
    changed = {plan.constructors[p.constructor] for p in plan.probes if p.family is Family.CONSTRUCTOR}
    assert {(64, 6, 3), (67, 6, 3), (5, 6, 3), (8, 64, 3), (8, 67, 3), (8, 5, 3)} <= changed


def test_each_dimension_is_tried_at_one_at_its_own_size_and_beyond() -> None:
    plan, _ = planned(source(CONVOLUTION, (8, 6, 3), (4, 8, 10, 12)), 8)
    heights = {p.size: p for p in plan.probes if p.group == "dim 2 of input 0"}
    assert {1, 10, 11} <= heights.keys()
    assert [size for size, p in heights.items() if p.own_size] == [10]


def test_inputs_are_laid_out_in_other_ways_where_that_changes_anything() -> None:
    plan, oracle = planned(source(CONVOLUTION, (8, 6, 3), (4, 8, 10, 12)), 8)
    layouts = {p.layout: oracle.inputs(p)[0] for p in plan.probes if p.layout != "packed"}
    assert set(layouts) == {"transposed", "every second element", "channels last", "channels last, weights too"}
    assert not any(x.is_contiguous() for x in layouts.values())
    assert layouts["channels last"].is_contiguous(memory_format=torch.channels_last)
    plan, _ = planned(source(ADDED, (), (4, 10), (4, 10), scalar=2.0), 8)
    assert {p.layout for p in plan.probes} == {"packed", "transposed", "every second element"}


def test_huge_values_stay_away_from_where_the_reference_overflows() -> None:
    text = "import torch\nfrom torch import nn\n\n\nclass Model(nn.Module):\n    def forward(self, x):\n        {}\n"
    for line, names in (("return x * 2.0", {"inputs times 1e24"}), ("return x * x", {"inputs times 1e12"}),
                        ("return torch.exp(x)", set())):  # fmt: skip
        plan, _ = planned(source(text.format(line), (), (4, 10)), 8)
        powers = {p.name.split(",")[0] for p in plan.probes if p.draw in draws.HUGE}
        assert powers == names, line


def test_indices_follow_the_table_and_what_the_reference_refuses_nobody_is_asked() -> None:
    text = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, rows, width):
        super().__init__()
        self.table = nn.Embedding(rows, width)

    def forward(self, indices):
        if len(indices) == 1:
            raise ValueError("one is not enough")
        return self.table(indices).sum(dim=1)
"""
    given = source(text, (50, 6), (7, 9))
    given = replace(given, inputs=(InputSpec("randint", (7, 9), low=0, high=50, dtype="int64"),))
    job = {
        "source": base64.b64encode(cloudpickle.dumps(given)).decode(), "precision": "ieee", "device": "cpu",
        "given_code": False, "constants": (16,), "effort": "none",
    }  # fmt: skip
    parts: dict[str, Any] = {}
    oracle_entry(job, {}, lambda name, data, tensors: parts.update({name: data}))
    probes = parts["plan"]["probes"]
    refused = [probes[i]["name"] for i in range(len(probes)) if "refused" in parts[f"probe {i}"]]
    answered = [probes[i]["name"] for i in range(len(probes)) if "oracle" in parts[f"probe {i}"]]
    assert "rows = 5" in answered
    assert any(name.startswith("own sizes") for name in answered)
    assert not any(name.startswith("own sizes") for name in refused)


def test_what_is_too_dear_is_named() -> None:
    plan, _ = planned(source(CONVOLUTION, (8, 6, 3), (4, 8, 10, 12)), 60000)
    assert any("beyond 60000" in text for text in plan.skipped)


@pytest.mark.parametrize(("own", "smaller"), [((2048, 1024), (72, 72)), ((2051, 1028), (67, 68))])
def test_a_large_module_is_probed_in_small(own: tuple[int, int], smaller: tuple[int, int]) -> None:
    """As aligned as it is: kernels that ask for that would leave an odd size to PyTorch, and nothing be probed."""
    text = "from torch import nn\n\n\nclass Model(nn.Linear):\n    pass\n"
    plan, _ = planned(source(text, own, (64, own[0])), 32)
    small = {probe.constructor for probe in plan.probes if probe.family is Family.SIZE}
    assert all(plan.constructors[index] == smaller for index in small)
    own = [probe for probe in plan.probes if probe.family is Family.OWN]
    assert {probe.constructor for probe in own} == {0}


def test_insensitive_inputs_are_measured_and_other_weights_respond() -> None:
    text = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.linear = nn.Linear(n, n)
        nn.init.constant_(self.linear.bias, -100.0)

    def forward(self, x):
        return torch.relu(self.linear(x) * 50)
"""
    plan, oracle = planned(source(text, (16,), (8, 16)), 32)
    assert oracle.own_response == 0.0
    redrawn = next(probe for probe in plan.probes if probe.weights == "responsive" and probe.draw == "own")
    state = oracle.weights(plan, redrawn)
    assert oracle.response(plan, redrawn, state).share > 0.05


def test_weights_are_sought_at_every_size_and_where_none_respond_that_is_said() -> None:
    """A sum over more rows, before a GELU, saturates weights at which a small output answers."""
    text = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.linear = nn.Linear(channels, width)

    def forward(self, x):
        return nn.functional.gelu(self.linear(x).amin(dim=2, keepdim=True).sum(dim=1)) + 1.0
"""
    plan, oracle = planned(source(text, (8, 64), (2, 16, 8)), 32)
    rows = [p for p in plan.probes if p.family is Family.SIZE and p.weights == "responsive" and "dim 1" in p.group]
    counts = sorted({size for p in rows for (_, dim), size in p.sizes if dim == 1})
    assert counts[-1] > 32
    for probe in rows:
        _, responds = oracle.chosen(plan, probe)
        assert responds is (oracle.response(plan, probe, oracle.weights(plan, probe)).strength > 1e-3), probe.name
        assert responds or dict(probe.sizes)[0, 1] >= 32, f"{probe.name}: there are weights that respond"
    assert len({oracle.chosen(plan, probe)[0] for probe in rows}) > 1


def test_weights_of_one_probe_do_not_leak_into_another() -> None:
    plan, oracle = planned(source(CONVOLUTION, (8, 6, 3), (4, 8, 10, 12)), 8)
    own = next(probe for probe in plan.probes if probe.weights == "own")
    before = {name: value.clone() for name, value in oracle.weights(plan, own).items()}
    for probe in plan.probes:
        oracle.answer(plan, probe)
    fresh = Subject.of(oracle.subject.source).build(oracle.subject.own_arguments).state_dict()
    assert all(torch.equal(before[name], fresh[name]) for name in fresh)


@pytest.mark.parametrize("how", ["own", *draws.DRAWS])
def test_draws_are_reproducible_and_keep_integers_legal(how: str) -> None:
    template = [torch.empty(3, 5, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")]
    own = [torch.rand(20), torch.randint(0, 7, (20,))]
    first, second = draws.draw_inputs(template, own, how, 3), draws.draw_inputs(template, own, how, 3)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    assert int(first[1].max()) < 7
    assert tuple(first[0].shape) == (3, 5)


def test_redrawn_variances_stay_positive() -> None:
    drawn = draws.redraw_weights(nn.BatchNorm1d(64), 4.0, 1)
    assert float(drawn["running_var"].min()) > 0
    assert float(drawn["weight"].std()) > 0.05
    assert drawn["num_batches_tracked"].dtype is torch.int64


def test_rounding_to_ten_bits() -> None:
    x = torch.tensor([1.0, 1.0 + 2**-11 + 2**-20, 1.0 + 2**-11, 3e38, float("inf"), float("nan")])
    near = round_operand(x, 10, nearest=True)
    assert near[:3].tolist() == [1.0, 1.0 + 2**-10, 1.0]
    assert torch.isinf(near[4])
    assert torch.isnan(near[5])
    assert round_operand(x, 10, nearest=False)[1].item() == 1.0


def test_reduced_products_round_operands_and_not_the_bias() -> None:
    linear = nn.Linear(64, 8)
    x = torch.rand(4, 64)
    with torch.no_grad(), ReducedProducts(10, nearest=True):
        rounded = linear(x)
    weight = round_operand(linear.weight.detach(), 10, nearest=True)
    right = nn.functional.linear(round_operand(x, 10, nearest=True), weight, linear.bias.detach())
    assert torch.equal(rounded, right)
    assert not torch.equal(rounded, linear(x).detach())


def test_an_operation_without_float64_falls_back_by_name() -> None:
    text = """
import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x):
        if x.dtype is torch.float64:
            raise NotImplementedError("there is no kernel for Double")
        return torch.tanh(x) * 3.0
"""
    plan, oracle = planned(source(text, (), (4, 10)), 8, effort="none")
    answer = oracle.answer(plan, plan.probes[0])
    assert oracle.kind == "float32 reference without TF32 (no float64: there is no kernel for Double)"
    assert torch.equal(answer.exact[0], answer.native[0].double())
    assert answer.errors["ieee"][0].norm > 0  # of the same operations on inputs changed in the last bit
