"""Folding, value ranges, merged reductions, identities: each law in float64, where it fires and where it must not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.graph.test_canonical import Of, run
from tilewright.graph.canonical import CANONICAL_RULES, MERGE_RULES, simplify
from tilewright.graph.capture import capture
from tilewright.graph.fold import FOLD_RULES
from tilewright.graph.ranges import ANYTHING, RANGE, RANGE_RULES, Range, value_range

SPECIAL = [0.0, -0.0, 0.3, -0.3, 7.0, -7.0, 1e30, -1e30, float("inf"), float("-inf"), float("nan")]


def fired(module: nn.Module, *inputs: torch.Tensor) -> Mapping[str, int]:
    """The rules that fired; the rewritten graph is held to the module in float64, NaN and infinities included."""
    module = module.double().eval()
    values = [x.double() for x in inputs]
    simplified = simplify(capture(module, values))
    with torch.no_grad():
        got, expected = run(simplified.graph, module, values), module(*values)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    return simplified.fired


def normalised(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A layer and a batch norm whose statistics are not those of a new one."""
    norm.running_mean = torch.randn(norm.num_features)
    norm.running_var = torch.rand(norm.num_features) + 0.1
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(layer, norm)


class Scaled(nn.Module):
    """A layer between per-channel factors, and an addend."""

    def __init__(self, layer: nn.Module, before: torch.Tensor, after: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.before, self.after = layer, nn.Parameter(before), nn.Parameter(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * self.before) * self.after - self.after


def pointwise(function: Callable[[torch.Tensor], torch.Tensor]) -> tuple[nn.Module, torch.Tensor]:
    return Of(lambda m, x: function(x)), torch.tensor(SPECIAL)


Case = tuple[nn.Module, torch.Tensor]
FIRES: dict[str, Callable[[], Case]] = {
    "difference": lambda: (normalised(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), torch.randn(2, 2, 5, 5)),
    "factor of a sum": lambda: (normalised(nn.Linear(4, 3), nn.BatchNorm1d(3)), torch.randn(5, 4)),
    "addends": lambda: (normalised(nn.ConvTranspose1d(2, 3, 3), nn.BatchNorm1d(3)), torch.randn(2, 2, 5)),
    "scale before": lambda: (Scaled(nn.Linear(4, 3), torch.randn(4), torch.randn(3)), torch.randn(50, 4)),
    "needless clamp": lambda: pointwise(lambda x: torch.relu(torch.sigmoid(x)) + torch.clamp(torch.tanh(x), -1.5, 1.0)),
    "clamp of a clamp": lambda: pointwise(lambda x: F.relu6(F.hardtanh(x, -2.0, 3.0))),
    "positive input": lambda: pointwise(lambda x: torch.abs(F.leaky_relu(torch.relu(x) + 0.5, 0.1)) + F.elu(x.abs())),
    "absolute of a negative": lambda: pointwise(lambda x: torch.clamp(x, max=-0.5).abs()),
    "merged reductions": lambda: (Of(lambda m, x: x.sin().sum(1).sum(1) * 2.0), torch.randn(2, 3, 4)),
    "scale by one": lambda: pointwise(lambda x: (x * 1.0) / 1.0 + x**1),
    "minus nothing": lambda: pointwise(lambda x: x - 0.0),
    "double negation": lambda: pointwise(lambda x: torch.neg(torch.neg(x)) * 2.0),
    "padding by name": lambda: (nn.Conv2d(2, 3, 3, padding="same"), torch.randn(2, 2, 5, 5)),
}

STAYS: dict[str, Callable[[], Case]] = {
    "difference": lambda: (Of(lambda m, x: m[0](x) - x.mean(), nn.Linear(4, 3)), torch.randn(3, 4)),
    "factor of a sum": lambda: (Of(lambda m, x: torch.relu(m[0](x)) * 2.0, nn.Linear(4, 3)), torch.randn(3, 4)),
    "addends": lambda: (Of(lambda m, x: m[0](x) + x, nn.Linear(4, 4, bias=False)), torch.randn(3, 4)),
    "scale before": lambda: (Of(lambda m, x: m[0](x * x), nn.Linear(4, 3)), torch.randn(50, 4)),
    "needless clamp": lambda: pointwise(lambda x: torch.relu(F.gelu(x)) + torch.clamp(torch.tanh(x), -0.5, 1.0)),
    "clamp of a clamp": lambda: pointwise(lambda x: torch.clamp(torch.clamp(x, 0.0, 1.0) * 2.0, 0.5, 1.0)),
    "positive input": lambda: pointwise(lambda x: torch.abs(x - 0.5) + F.leaky_relu(torch.relu(x) - 0.1, 0.1)),
    "absolute of a negative": lambda: pointwise(lambda x: torch.clamp(x, max=0.5).abs()),
    "merged reductions": lambda: (Of(lambda m, x: x.sum(1).amax(1)), torch.randn(2, 3, 4)),
    "scale by one": lambda: pointwise(lambda x: x * 1.5),
    "minus nothing": lambda: pointwise(lambda x: x - 0.5),
    "double negation": lambda: pointwise(lambda x: -(-x * 2.0)),
    "padding by name": lambda: (nn.Conv2d(2, 3, 2, padding="same"), torch.randn(2, 2, 5, 5)),
}


def test_every_rule_has_its_cases() -> None:
    own = {"scale by one", "minus nothing", "double negation", "padding by name"}
    assert own <= {rule.name for rule in CANONICAL_RULES}
    names = own | {rule.name for rule in (*FOLD_RULES, *RANGE_RULES, *MERGE_RULES)}
    assert names == set(FIRES) == set(STAYS)


@pytest.mark.parametrize("rule", FIRES)
def test_it_fires(rule: str) -> None:
    assert fired(*FIRES[rule]())[rule] >= 1


@pytest.mark.parametrize("rule", STAYS)
def test_it_declines(rule: str) -> None:
    module, x = STAYS[rule]()
    assert rule not in fired(module, x)


@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_batch_norm_is_one_factor_and_one_addend(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([nn.Conv2d, nn.ConvTranspose2d]))
    groups, bias = data.draw(st.sampled_from([1, 2])), data.draw(st.booleans())
    layer = kind(4, 6, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)), groups=groups, bias=bias)
    module = normalised(layer, nn.BatchNorm2d(6)).double().eval()
    graph = simplify(capture(module, [torch.randn(2, 4, 5, 5).double()])).graph
    on_data = [node.target for node in graph.fx.nodes if node.op == "call_function" and _reads_input(node, graph)]
    assert len(on_data) == 3, "the convolution, one factor, one addend"
    fired(module, torch.randn(2, 4, 5, 5))


def test_a_factor_moves_only_into_weights_that_are_small_beside_the_input() -> None:
    few, scaled = torch.randn(5, 4), Scaled(nn.Linear(4, 3), torch.randn(4), torch.randn(3))
    assert "scale before" not in fired(scaled, few)
    behind = Of(lambda m, x: m[0](torch.tanh(x) * m[0].weight[0]), nn.Linear(4, 3))
    assert "scale before" not in fired(behind, torch.randn(50, 4)), "tanh's kernel scales for nothing"


def _reads_input(node: torch.fx.Node, graph: object) -> bool:
    from tilewright.graph.graph import is_parameter_only

    return not is_parameter_only(node, graph)  # type: ignore[arg-type]


CHAINS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "clamp": lambda x: x.clamp(-0.5, 2.0),
    "tanh": torch.tanh,
    "double": lambda x: x * 2.0,
    "shift": lambda x: x - 0.25,
    "abs": torch.abs,
    "neg": lambda x: -x,
    "square": lambda x: x * x,
    "gelu": F.gelu,
    "minimum": lambda x: torch.minimum(x, x * 0.5),
    "sigmoid": torch.sigmoid,
    "sum": lambda x: x.sum(0, keepdim=True) + x.mean(),
    "exp": torch.exp,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
}


@settings(max_examples=10, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(CHAINS)), min_size=1, max_size=5))
def test_ranges_hold_and_rules_keep_values(names: list[str]) -> None:
    def chain(m: object, x: torch.Tensor) -> torch.Tensor:
        for name in names:
            x = CHAINS[name](x)
        return x * 1.25

    x = torch.tensor(SPECIAL).double()
    fired(Of(chain), x)
    graph = capture(Of(chain), [x])
    last = next(node for node in graph.fx.nodes if node.op == "output").args[0][0]
    found = value_range(last, graph)
    values = chain(None, torch.cat([x, torch.linspace(-9, 9, 181, dtype=torch.float64)]))
    finite = values[~values.isnan()]
    slack = 1e-9 * finite.abs().clamp(max=1e300)
    assert bool(((finite >= found.low - slack) & (finite <= found.high + slack)).all()), (names, found)


def test_the_half_of_gelu_that_is_needed_is_noted() -> None:
    module = Of(lambda m, x: F.gelu(torch.clamp(x, max=0.0) * 2.0) + F.gelu(x))
    graph = simplify(capture(module, [torch.randn(3)])).graph
    notes = [node.meta[RANGE] for node in graph.fx.nodes if "gelu" in str(node.target)]
    assert sorted(note.high for note in notes) == [0.0, float("inf")]


def test_ranges_of_what_may_change_are_open() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bound = 0.5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.clamp(x, min=self.bound))

    graph = capture(Module(), [torch.randn(3)])
    clamp = next(node for node in graph.fx.nodes if "clamp" in str(node.target))
    assert value_range(clamp, graph) == ANYTHING
    assert "needless clamp" not in simplify(graph).fired
    assert Range(0.0, 1.0).within(0.0, 2.0)
