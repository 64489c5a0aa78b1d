"""The quick way through torch's decompositions gives the graph that the long one gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tilewright.graph import decompositions
from tilewright.graph.decompositions import functional

FORWARDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "in place": lambda x: x.clone().mul_(2).relu_() + x,
    "views": lambda x: x.flatten(1).view(-1, 3).transpose(0, 1).contiguous().reshape(3, -1).to(torch.float64),
    "kept composites": lambda x: F.layer_norm(x, x.shape[-1:]) @ x.transpose(-1, -2) + F.pad(x, (0, 1))[..., :-1].sum(),
    "taken apart by other tables": lambda x: F.hardshrink(x) + F.softshrink(x),
    "composites of composites": lambda x: F.instance_norm(x) + F.celu(x),
    "statistics": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_it_is_the_graph_that_torch_makes(name: str) -> None:
    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return FORWARDS[name](x)

    program = torch.export.export(Module(), (torch.randn(2, 4, 6, 6),))
    assert str(functional(program).graph) == str(program.run_decompositions({}).graph)


def test_another_version_of_torch_does_it_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompositions, "_SPLIT", "no_such_function")
    program = torch.export.export(nn.ReLU(inplace=True), (torch.randn(3),))
    assert "relu.default" in str(functional(program).graph)
