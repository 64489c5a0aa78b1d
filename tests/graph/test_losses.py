"""Losses written out: each law in float64, over shapes, reductions and edges, and a case in which it must not fire."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.graph.running import run
from tests.kernels.properties import drawing
from tilewright.graph.capture import capture
from tilewright.graph.expand import expand_composites
from tilewright.graph.graph import Graph
from tilewright.graph.losses import LOSS_RULES

EDGES = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e300, -40.0)
#: What `binary_cross_entropy` takes: anything else makes torch raise.
PARTS = (0.0, 1.0, 1e-300, 0.5)

Loss = Callable[..., torch.Tensor]

#: Rule -> (loss of its tensors and a reduction, number of tensors, edges that they may hold).
LOSSES: dict[str, tuple[Loss, int, Sequence[float]]] = {
    "squared error": (lambda r, x, t: F.mse_loss(x, t, reduction=r), 2, EDGES),
    "absolute error": (lambda r, x, t: F.l1_loss(x, t, reduction=r), 2, EDGES),
    "smooth absolute error": (lambda r, x, t: F.smooth_l1_loss(x, t, reduction=r, beta=0.7), 2, EDGES),
    "Huber": (lambda r, x, t: F.huber_loss(x, t, reduction=r, delta=0.5), 2, EDGES),
    "binary cross entropy": (lambda r, x, t, w: F.binary_cross_entropy(x, t, w, reduction=r), 3, PARTS),
    "binary cross entropy of logits": (
        lambda r, x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, reduction=r, pos_weight=p),
        4,
        EDGES,
    ),
    "divergence": (
        lambda r, x, t: F.kl_div(x, t, reduction=r) + F.kl_div(x, t.abs(), reduction=r, log_target=True),
        2,
        EDGES,
    ),
    "Poisson likelihood": (
        lambda r, x, t: (
            F.poisson_nll_loss(x, t, reduction=r, full=True)
            + F.poisson_nll_loss(x.abs(), t, reduction=r, log_input=False)
        ),
        2,
        EDGES,
    ),
    "hinge of embeddings": (lambda r, x, t: F.hinge_embedding_loss(x, t, 0.3, reduction=r), 2, EDGES),
    "soft margin": (lambda r, x, t: F.soft_margin_loss(x, t, reduction=r), 2, EDGES),
    "margin of a ranking": (lambda r, x, y, t: F.margin_ranking_loss(x, y, t, 0.4, reduction=r), 3, EDGES),
    "cosine of embeddings": (
        lambda r, x, y, t: F.cosine_embedding_loss(x, y, t.sign()[:, 0], 0.1, reduction=r),
        3,
        (0.0, 1e-9, 2.0),
    ),
    "margin of triplets": (lambda r, a, p, n: F.triplet_margin_loss(a, p, n, 0.5, reduction=r), 3, (0.0, 3.0)),
    "pairwise distance": (lambda r, x, y: F.pairwise_distance(x, y, 3.0), 2, (0.0, 3.0)),
}

#: Rule -> a call like it that must stay one operation.
STAYS: dict[str, tuple[Loss, int]] = {
    "margin of triplets": (lambda r, a, p, n: F.triplet_margin_loss(a, p, n, swap=True, reduction=r), 3),
    "pairwise distance": (lambda r, x, y: F.pairwise_distance(x, y[0]), 2),
    "cosine of embeddings": (lambda r, x, y, t: F.cosine_embedding_loss(x, y, t[:, 0].long(), reduction=r), 3),
}


class Of(nn.Module):
    """A loss as a module; its reduction is fixed."""

    def __init__(self, loss: Loss, reduction: str) -> None:
        super().__init__()
        self.loss, self.reduction = loss, reduction

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The loss."""
        return self.loss(self.reduction, *tensors)


def written_out(module: nn.Module, tensors: Sequence[torch.Tensor]) -> tuple[Graph, dict[str, int]]:
    rewritten = expand_composites(capture(module, list(tensors), dynamic=False))
    return rewritten.graph, dict(rewritten.fired)


def drawn(count: int, shape: tuple[int, int], edges: Sequence[float], seed: int) -> list[torch.Tensor]:
    """Tensors in (0, 1) with edges among their elements, in float64."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(count)]
    for tensor in tensors:
        for _ in range(seed % 4):
            places = torch.randint(tensor.numel(), (2,), generator=generator)
            tensor.view(-1)[places[0]] = edges[int(places[1]) % len(edges)]
    return tensors


@settings(drawing(2))
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOSSES)
@given(
    reduction=st.sampled_from(["none", "mean", "sum"]),
    shape=st.sampled_from([(2, 3), (5, 4), (3, 17)]),
    seed=st.integers(0, 99),
)
def test_law(name: str, reduction: str, shape: tuple[int, int], seed: int) -> None:
    loss, count, edges = LOSSES[name]
    tensors, module = drawn(count, shape, edges, seed), Of(loss, reduction)
    graph, fired = written_out(module, tensors)
    assert name in fired
    torch.testing.assert_close(
        run(graph, module, tensors), module(*tensors), rtol=1e-12, atol=1e-12, equal_nan=True, check_stride=False
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOSSES)
def test_operands_of_two_types_stay_with_torch(name: str) -> None:
    loss, count, _ = LOSSES[name]
    if name == "binary cross entropy":
        return  # torch takes one type alone
    tensors = drawn(count, (3, 4), (1.0,), 0)
    mixed = [tensors[0].float(), *tensors[1:]]
    if name in STAYS:
        loss, mixed = STAYS[name][0], tensors
    assert name not in written_out(Of(loss, "mean"), mixed)[1]


@pytest.mark.filterwarnings("ignore")
def test_what_is_broadcast_first_counts_as_often() -> None:
    x, target = drawn(1, (4, 5), (0.0,), 1)[0], drawn(1, (1, 5), (0.0,), 2)[0]
    module = Of(lambda r, x, t: F.mse_loss(x, t, reduction=r), "mean")
    graph, fired = written_out(module, [x, target])
    assert fired["squared error"] == 1
    torch.testing.assert_close(run(graph, module, [x, target]), module(x, target))


def test_every_loss_has_a_case() -> None:
    assert {rule.name for rule in LOSS_RULES} == set(LOSSES)


def test_a_number_that_is_an_attribute_is_handed_on() -> None:
    """Nothing is computed from it in advance: the module may change it."""

    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.beta = 0.75

        def forward(self, x: torch.Tensor, target: torch.Tensor) -> Any:
            """The loss."""
            return F.smooth_l1_loss(x, target, beta=self.beta)

    x, target = drawn(2, (3, 4), (0.0,), 1)
    graph, _ = written_out(Smooth(), [x, target])
    numbers = [value for node in graph.fx.nodes for value in node.args if type(value) is float]
    assert numbers.count(next(iter(graph.linked))) == 3


@pytest.mark.filterwarnings("ignore")
def test_a_norm_whose_order_is_an_attribute_stays_with_torch() -> None:
    """A power and its root would be computed from a number that the module may change."""
    tensors = drawn(3, (3, 4), (0.0,), 1)
    _, fired = written_out(nn.TripletMarginLoss(p=2.5), tensors)
    assert "margin of triplets" in fired
    assert "pairwise distance" not in fired
