"""Runs collapsed convolutions in Triton's interpreter on drawn hyperparameters, tiles and inputs, beside float64.

A script of its own, since the interpreter is chosen by an environment variable before triton is imported; prints
one JSON object for each property, with what failed.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import copy
import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.graph.test_canonical import Of  # noqa: E402
from tests.graph.test_collapse import convolutions  # noqa: E402
from tests.kernels.interpreted import load, relative_error  # noqa: E402
from tests.kernels.properties import drawing  # noqa: E402
from tilewright.graph.canonical import simplify  # noqa: E402
from tilewright.graph.capture import capture  # noqa: E402
from tilewright.graph.graph import fixed_size  # noqa: E402
from tilewright.kernels.collapse.plan import CollapsePlan, CollapseTiles  # noqa: E402
from tilewright.kernels.module.classes import write_live_file  # noqa: E402
from tilewright.kernels.module.text import write_forward  # noqa: E402
from tilewright.kernels.planner import plan_module  # noqa: E402
from tilewright.kernels.steps import PlanOptions  # noqa: E402

ALLOWED = 2e-6

tiles = st.builds(
    CollapseTiles,
    block=st.sampled_from([16, 64, 1024]),
    unroll=st.sampled_from([1, 2, 4]),
    elements=st.sampled_from([1, 64, 4096]),
    num_warps=st.just(1),
    target_programs=st.sampled_from([1, 64]),
    lane_cells=st.sampled_from([0, 8, 27]),
)

FOLLOWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nothing": lambda y: y,
    "relu": torch.relu,
    "scale, tanh": lambda y: torch.tanh(y * 0.5) + 1.0,
    "softplus": nn.functional.softplus,
}


def emitted(module: nn.Module, x: torch.Tensor, options: PlanOptions) -> tuple[nn.Module, str, bool, bool]:
    """The drop-in, its source, whether the collapse is one launch, and whether sizes are free."""
    simplified = simplify(capture(module.eval(), [x]))
    plan = plan_module(simplified.graph, options)
    source = write_live_file(write_forward(plan), description="test")
    one = [type(kernel) for kernel in plan.fused] == [CollapsePlan] and not plan.native
    shape = simplified.graph.node(simplified.graph.inputs[0]).meta["val"].shape
    return load(source, "collapse")(module), source, one, all(fixed_size(size) is None for size in shape[2:])


@drawing(8)
@given(drawn=convolutions(), data=st.data())
def hyperparameters(drawn: tuple[nn.Module, torch.Tensor, int], data: st.DataObject) -> None:
    """One launch, right at the example's size and at another, for every hyperparameter and cut."""
    layer, x, rank = drawn
    how, keep = data.draw(st.sampled_from(["mean", "sum"])), data.draw(st.booleans())
    follow = FOLLOWS[data.draw(st.sampled_from(sorted(FOLLOWS)))]
    dims = list(range(2, 2 + rank))
    module = Of(
        lambda m, x: follow(getattr(m[0](x), how)(dims, keepdim=keep) if how == "mean" else m[0](x).mean(dims)), layer
    )
    drop_in, source, one, free = emitted(module, x, PlanOptions(collapse_tiles=data.draw(tiles)))
    assert one, source
    assert relative_error(module, drop_in, [x]) < ALLOWED, source
    if free:
        assert relative_error(module, drop_in, [torch.randn(1, 4, *(size + 3 for size in x.shape[2:]))]) < ALLOWED, (
            source
        )


@drawing(4)
@given(drawn=convolutions(padded=False), data=st.data())
def infinities(drawn: tuple[nn.Module, torch.Tensor, int], data: st.DataObject) -> None:
    """Infinities and NaN come out where the reference has them."""
    layer, x, rank = drawn
    x.view(-1)[data.draw(st.integers(0, x.numel() - 1))] = data.draw(st.sampled_from([float("inf"), float("nan")]))
    module = Of(lambda m, x: torch.relu(m[0](x).mean(list(range(2, 2 + rank)))), layer)
    drop_in, source, _one, _free = emitted(module, x, PlanOptions(collapse_tiles=data.draw(tiles)))
    assert relative_error(module, drop_in, [x]) < ALLOWED, source


def updates() -> None:
    """In-place updates, other tensors and linked numbers are seen."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.factor = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), 0.5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.norm(self.layer(x)) * self.factor).mean([2, 3]) + self.layer(x).mean([2, 3])

    module = Module()
    x = torch.randn(2, 3, 6, 7)
    drop_in, source, _one, _free = emitted(module, x, PlanOptions())
    assert relative_error(module, drop_in, [x]) < ALLOWED, source
    for change in (
        lambda: module.layer.weight.add_(0.3),
        lambda: module.norm.running_var.mul_(3.0),
        lambda: setattr(module, "factor", -0.25),
        lambda: setattr(module.layer, "weight", nn.Parameter(torch.randn_like(module.layer.weight))),
    ):
        with torch.no_grad():
            change()
        assert relative_error(module, drop_in, [x]) < 1e-5, source


def inference_tensors() -> None:
    """Tensors that do not count their changes are as good as others."""
    module = Of(lambda m, x: torch.relu(m[0](x).mean([2, 3])), nn.Conv2d(3, 4, 3)).eval()
    x = torch.randn(2, 3, 6, 7)
    written, source, _one, _free = emitted(module, x, PlanOptions())
    truth = torch.Tensor.is_cuda
    torch.Tensor.is_cuda = property(lambda self: True)  # type: ignore[assignment,method-assign]
    try:
        with torch.inference_mode():
            drop_in = type(written)(copy.deepcopy(module))
            assert drop_in.children_list[0].weight.is_inference()
            before = drop_in(x)
            drop_in.children_list[0].weight.mul_(2.0)
            assert torch.allclose(drop_in(x), drop_in.reference(x), atol=1e-5), source
            assert not torch.equal(before, drop_in(x))
    finally:
        torch.Tensor.is_cuda = truth  # type: ignore[method-assign]


PROPERTIES = {f.__name__: f for f in (hyperparameters, infinities, updates, inference_tensors)}


def main() -> None:
    """Run all properties, or those that are named."""
    for name in sys.argv[1:] or PROPERTIES:
        torch.manual_seed(0)
        problem = ""
        try:
            PROPERTIES[name]()
        except BaseException:
            problem = traceback.format_exc()[-6000:]
        print(json.dumps({"name": name, "problem": problem}), flush=True)


if __name__ == "__main__":
    main()
