"""Compiles rows, pooling and scans for three targets and prints what each kernel needs; run by `test_rows`.

A process of its own: kernels are compiled on a pretended device, for tensors without data.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tilewright.gate.inside.pretend import pretend
from tilewright.gate.inside.runtime import gpu_figures
from tilewright.gpu import Gpu
from tilewright.gpu.table import find_gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.rows.rules import RowOptions
from tilewright.kernels.steps import PlanOptions
from tilewright.toolchain import triton_compat

#: sm_80, sm_89, sm_90
TARGETS = ("a100", "rtx-4090", "h200")

CASES: dict[str, tuple[Callable[[], nn.Module], Sequence[tuple[int, ...]], torch.dtype]] = {
    "softmax": (lambda: nn.Softmax(1), [(512, 4096)], torch.float32),
    "log softmax over channels": (lambda: nn.LogSoftmax(1), [(4, 96, 64, 64)], torch.float32),
    "layer norm": (lambda: nn.LayerNorm(2048), [(512, 2048)], torch.bfloat16),
    "group norm": (lambda: nn.GroupNorm(8, 64), [(8, 64, 96, 96)], torch.float32),
    "max pooling": (lambda: nn.MaxPool2d(3, 2, 1), [(8, 16, 64, 64)], torch.float16),
    "layer norm of few long rows": (lambda: nn.LayerNorm([64, 64, 64]), [(16, 64, 64, 64)], torch.float32),
    "softmax of few long rows": (lambda: nn.Softmax(1), [(8, 400000)], torch.float32),
    "loss": (lambda: nn.SmoothL1Loss(), [(512, 4000), (512, 4000)], torch.bfloat16),
    "cumulative sum": (lambda: Cumulative(), [(256, 20000)], torch.float32),
    "place of the largest": (lambda: Picked(), [(256, 20000)], torch.bfloat16),
    "cumulative sum from the end": (lambda: Cumulative(backwards=True), [(256, 20000)], torch.float32),
}


class Picked(nn.Module):
    """[M, N] -> [M]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Where the largest of a row is."""
        return torch.argmax(F.relu(x), dim=1)


class Cumulative(nn.Module):
    """[M, N] -> [M, N]; rows longer than a tile."""

    def __init__(self, *, backwards: bool = False) -> None:
        super().__init__()
        self.backwards = backwards

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sums of what is positive so far."""
        if self.backwards:
            return F.relu(x).flip(1).cumsum(1).flip(1)
        return torch.cumsum(F.relu(x), dim=1)


def compiled(name: str, gpu: Gpu) -> list[dict[str, Any]]:
    """What each kernel of a case needs on a target."""
    make, shapes, dtype = CASES[name]
    module = make().eval().to("meta", dtype)
    inputs = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    plan = plan_module(
        simplify(capture(module, inputs)).graph, PlanOptions(sm_count=gpu.sm_count, rows=RowOptions(plain=True))
    )
    source = write_live_file(write_forward(plan), description=name)
    found: list[dict[str, Any]] = []
    kernels = triton_compat.jit_function_type()
    plain = kernels.run  # type: ignore[attr-defined]

    def run(kernel: Any, *args: Any, grid: Any = None, warmup: bool = False, **kwargs: Any) -> Any:
        if warmup:
            return plain(kernel, *args, grid=grid, warmup=True, **kwargs)
        needs = triton_compat.compile_launch(kernel, args, kwargs)
        found.append({"case": name, "gpu": gpu.name, "kernel": triton_compat.kernel_name(kernel), **vars(needs)})
        return None

    with pretend(gpu_figures(gpu), "meta", poisoned=False):
        kernels.run = run  # type: ignore[attr-defined]
        try:
            with torch.no_grad():
                _load(source).ModelNew(module)(*inputs)
        finally:
            kernels.run = plain  # type: ignore[attr-defined]
    return found


def _load(source: str) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
        file.write(source)
    spec = importlib.util.spec_from_file_location(Path(file.name).stem, file.name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """One JSON object a line for each kernel and target."""
    warnings.simplefilter("ignore")
    for name in CASES:
        for target in TARGETS:
            for row in compiled(name, find_gpu(target)):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
