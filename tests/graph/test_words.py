"""Operations that are other operations, and reductions of one element: the values stay, and each rule may decline."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.graph.test_forms import Of, canonical

EDGES = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, -1e300, 20.5)

numbers = st.lists(st.one_of(st.floats(width=32), st.sampled_from(EDGES)), min_size=8, max_size=8)

Function = Callable[[Any, torch.Tensor], Any]

#: A word -> how it is written, and the operations that it becomes.
WORDS: dict[str, tuple[Function, list[str]]] = {
    "arcsin": (lambda m, x: torch.arcsin(x), ["asin"]),
    "fix": (lambda m, x: torch.fix(x), ["trunc"]),
    "greater": (lambda m, x: torch.where(torch.greater(x, 1.0), x, 0.0), ["gt", "where"]),
    "special xlogy": (lambda m, x: torch.special.xlogy(x, x), ["xlogy"]),
    "special round": (lambda m, x: torch.special.round(x), ["round"]),
    "prelu": (lambda m, x: m.slopes(x.view(2, 2, 2)), ["view", "view", "gt", "mul", "where"]),
    "rrelu": (lambda m, x: F.rrelu(x, 0.1, 0.5), ["leaky_relu"]),
    "glu": (lambda m, x: F.glu(x, -1), ["chunk", "sigmoid", "mul"]),
    "nan_to_num": (lambda m, x: torch.nan_to_num(x), ["nan_to_num"]),
    "filled with a value": (lambda m, x: x.masked_fill(x > 1, x.sum()), ["gt", "sum", "where"]),
    "single mean": (lambda m, x: x[:, None].mean(1), ["unsqueeze", "squeeze"]),
    "single logsumexp": (lambda m, x: x[:, None].logsumexp(1, keepdim=True), ["unsqueeze"]),
    "single product": (lambda m, x: x[:, None].prod(1), ["unsqueeze", "squeeze"]),
    "single scan": (lambda m, x: x[:, None].cumsum(1), ["unsqueeze"]),
    "single softmax": (lambda m, x: x[:, None].softmax(1), ["unsqueeze", "sub", "exp"]),
    "single log_softmax": (lambda m, x: x[:, None].log_softmax(1), ["unsqueeze", "sub"]),
    "several of one": (
        lambda m, x: x[:, None].amax(1, True).mean(1, True).logsumexp(1, True).max(1)[0],
        ["unsqueeze", "squeeze"],
    ),
}


@pytest.mark.parametrize("name", WORDS)
@given(values=numbers)
@settings(max_examples=4, deadline=None, derandomize=True, phases=(Phase.generate,))
def test_a_word_keeps_its_values(name: str, values: list[float]) -> None:
    function, wanted = WORDS[name]
    module = Of(function, slopes=nn.PReLU(2, init=0.3)).double().eval()
    x = torch.tensor(values, dtype=torch.float64)
    names, result = canonical(module, x)
    assert [name for name in names if name != "clone"] == wanted  # of an input that is returned
    torch.testing.assert_close(result, module(x).detach(), rtol=1e-12, atol=0.0, equal_nan=True)


STAYS: dict[str, tuple[Function, str]] = {
    "a slope that may change": (lambda m, x: F.rrelu(x, m.low, 0.5), "rrelu"),
    "a random slope": (lambda m, x: F.rrelu(x, 0.1, 0.5, training=True), "rrelu"),
    "rounding to decimals": (lambda m, x: torch.special.round(x, decimals=1), "special_round"),
    "whole numbers to fill": (lambda m, x: (x * 3).long().masked_fill(x > 1, x.long().sum()), "masked_fill"),
    "a sum of bools": (lambda m, x: (x > 0)[:, None].sum(1), "sum"),
    "two elements": (lambda m, x: x.view(4, 2).logsumexp(1), "logsumexp"),
    "a softmax of two": (lambda m, x: x.view(4, 2).softmax(1), "softmax"),
    "a scan of two": (lambda m, x: x.view(4, 2).cumsum(1), "cumsum"),
}


@pytest.mark.parametrize("name", STAYS)
def test_a_word_stays(name: str) -> None:
    function, wanted = STAYS[name]
    names, _ = canonical(Of(function, low=0.1).double().eval(), torch.randn(8, dtype=torch.float64))
    assert wanted in names
