"""The canonical rules: each keeps the function, in float64, and declines where its conditions fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from tilewright.errors import CaptureError, InputMismatchError
from tilewright.graph.canonical import canonicalize
from tilewright.graph.capture import capture
from tilewright.graph.graph import Graph


class Of(nn.Module):
    def __init__(self, function: Callable[..., Any], *children: nn.Module) -> None:
        super().__init__()
        self.children_list = nn.ModuleList(children)
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.children_list, x)


def run(graph: Graph, module: nn.Module, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The rewritten graph on real tensors."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    values = [
        inputs[graph.inputs.index(node.name)]
        if node.name in graph.inputs
        else state[graph.state_names()[node.name]]
        if node.name in graph.state_names()
        else graph.constants[node.name]
        for node in graph.fx.nodes
        if node.op == "placeholder"
    ]
    return fx.Interpreter(fx.GraphModule(nn.Module(), graph.fx)).run(*values)[0]


def fired(module: nn.Module, x: torch.Tensor) -> Mapping[str, int]:
    """The rules that fired; the rewritten graph is held to the module in float64."""
    module = module.double().eval()
    x = x.double()
    rewritten = canonicalize(capture(module, [x]))
    with torch.no_grad():
        torch.testing.assert_close(run(rewritten.graph, module, [x]), module(x), rtol=1e-9, atol=1e-9)
    return rewritten.fired


FIRES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "clone": (lambda: Of(lambda m, x: x.clone() * 2.0), (2, 3)),
    "eval dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.ReLU()), (2, 3)),
    "full slice": (lambda: Of(lambda m, x: x[0:] * 2.0), (2, 3)),
    "single element": (lambda: Of(lambda m, x: x.mean(1, keepdim=True).mean(1, keepdim=True) * 2.0), (2, 3)),
    "eval batch norm": (lambda: nn.BatchNorm2d(3), (2, 3, 4, 5)),
    "convolution bias": (lambda: nn.Conv2d(3, 4, 3), (2, 3, 5, 5)),
    "linear bias": (lambda: nn.Linear(3, 4), (2, 3)),
    "extremum without index": (lambda: Of(lambda m, x: x.min(1)[0] * x.max(1)[1]), (2, 3)),
    "extremum of all": (lambda: Of(lambda m, x: x.max() * 2.0), (2, 3)),
    "reduction of all": (lambda: Of(lambda m, x: x.sum() * 2.0), (2, 3)),
}

STAYS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "single element": (lambda: Of(lambda m, x: x.mean(1, keepdim=True)), (2, 3)),
    "full slice": (lambda: Of(lambda m, x: x.narrow(0, 1, 1) * 2.0), (2, 3)),
    "convolution bias": (lambda: nn.Conv2d(3, 4, 3, bias=False), (2, 3, 5, 5)),
    "linear bias": (lambda: nn.Linear(3, 4, bias=False), (2, 3)),
    "extremum without index": (lambda: Of(lambda m, x: (x * 9).int().min(1)[1] * 2.0), (2, 3)),
    "eval batch norm": (lambda: nn.GroupNorm(1, 3), (2, 3, 4, 5)),
}


@pytest.mark.parametrize("rule", FIRES)
def test_rule_fires_and_keeps_the_function(rule: str) -> None:
    make, shape = FIRES[rule]
    assert fired(make(), torch.randn(shape)).get(rule, 0) >= 1 or rule in ("clone", "eval dropout", "full slice")


@pytest.mark.parametrize("rule", STAYS)
def test_rule_declines(rule: str) -> None:
    make, shape = STAYS[rule]
    assert rule not in fired(make(), torch.randn(shape))


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(1, 5),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 5)),
)
def test_batch_norm_is_written_out_exactly(channels: int, affine: bool, eps: float, size: tuple[int, int]) -> None:
    norm = nn.BatchNorm1d(channels, eps=eps, affine=affine)
    norm.running_mean = torch.randn(channels)
    norm.running_var = torch.rand(channels) + 0.1
    assert fired(norm, torch.randn(size[0], channels, size[1]))["eval batch norm"] == 1


def test_float_attributes_are_linked_and_restored() -> None:
    module = nn.LeakyReLU(0.3)
    graph = capture(module, [torch.randn(3)])
    assert [link.path for link in graph.linked.values()] == ["negative_slope"]
    assert module.negative_slope == 0.3


def test_sizes_are_symbolic_even_from_a_batch_of_one() -> None:
    graph = capture(nn.ReLU(), [torch.randn(1, 3)])
    assert graph.dynamic
    assert not isinstance(graph.node(graph.inputs[0]).meta["val"].shape[0], int)


def test_control_flow_on_values_names_the_line() -> None:
    module = Of(lambda m, x: x if x.sum() > 0 else -x)
    with pytest.raises(CaptureError, match=r"test_canonical\.py:\d+: .*stopped by"):
        capture(module, [torch.randn(3)])


def test_inputs_that_do_not_fit_say_what_torch_says() -> None:
    with pytest.raises(InputMismatchError, match="shapes"):
        capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), [torch.randn(2, 5, 7, 7)])


def test_the_module_is_left_in_the_mode_that_it_was_in() -> None:
    module = nn.Sequential(nn.Dropout(0.1), nn.BatchNorm1d(3))
    module[1].eval()
    capture(module, [torch.randn(2, 3)])
    assert [child.training for child in module.modules()] == [True, True, False]
