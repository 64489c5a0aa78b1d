"""What a call costs the host, by the table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tilewright.gpu.table import find_gpu
from tilewright.graph.capture import capture
from tilewright.measure.host import HOST_COSTS, host_ms_of, host_ms_of_compiled, host_ms_of_eager
from tilewright.measure.model import predict, predict_reference
from tilewright.values.candidate import Launch, NativeCall, Recording
from tilewright.values.measurement import bound_by
from tilewright.values.precision import PrecisionClass

GPU = find_gpu("h200")
LAUNCH = Launch("kernel", (1, 1, 1), (), 4, 2)
VIEW = NativeCall("aten.view.default", ((4, 4),), ((16,),), 0, 0, 0)
LINEAR = NativeCall("aten.linear.default", ((4, 4), (4, 4)), ((4, 4),), 128, 64, 128)


class Small(nn.Module):
    """A linear layer, a scale and a batch norm: three operations in eager PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 32)
        self.norm = nn.BatchNorm1d(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x) * 2.0)


@pytest.mark.parametrize(
    ("steps", "us"),
    [((), 0), ((LAUNCH,), 16), ((LAUNCH, LAUNCH, LAUNCH), 38), ((VIEW, LINEAR, LAUNCH), 38), ((LAUNCH, VIEW), 18)],
)
def test_the_first_launch_costs_more_than_the_others(steps: tuple[Launch | NativeCall, ...], us: float) -> None:
    assert host_ms_of(Recording(steps)) == pytest.approx(us / 1e3)


def test_the_table_names_the_source_of_every_figure() -> None:
    assert all(cost.us > 0 and cost.source for cost in HOST_COSTS.values())


def test_a_small_module_is_bound_by_the_host_and_a_large_one_by_the_gpu() -> None:
    graph = capture(Small().eval(), [torch.randn(8, 64)])
    assert host_ms_of_eager(graph) == pytest.approx(0.050, abs=0.005)  # one view or another among them
    assert host_ms_of_compiled(graph) == pytest.approx(0.057)
    small = predict_reference(graph, GPU, PrecisionClass.TF32)
    assert (small.time_ms, bound_by(small)) == (small.host_ms, "host")
    assert small.gpu_ms == pytest.approx(sum(small.parts.values()))
    large = predict_reference(capture(Small().eval(), [torch.randn(1 << 18, 64)]), GPU, PrecisionClass.TF32)
    assert (large.time_ms, bound_by(large)) == (large.gpu_ms, "GPU")
    ours = predict(Recording((LAUNCH,)), [], GPU, PrecisionClass.TF32)
    assert ours.time_ms == ours.host_ms == 0.016
