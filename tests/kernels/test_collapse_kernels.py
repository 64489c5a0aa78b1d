"""Collapsed convolutions in one launch: in the interpreter against float64, and compiled for three targets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.graph.test_canonical import Of
from tests.kernels.compiled import compile_for
from tests.once import once
from tilewright.gpu.table import find_gpu
from tilewright.kernels.steps import PlanOptions

HERE = Path(__file__).parent
PROPERTIES = ("hyperparameters", "infinities", "updates", "inference_tensors")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All properties, run once in a process of their own."""
    found: dict[str, str] = once(tmp_path_factory, "collapse", _problems)
    return found


def _problems() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, str(HERE / "collapse_interpreted.py")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    found = {row["name"]: row["problem"] for row in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == set(PROPERTIES), done.stderr[-2000:]
    return found


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_holds(name: str, problems: dict[str, str]) -> None:
    assert problems[name] == ""


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "transposed": (lambda: nn.ConvTranspose2d(64, 128, 3, 2, 1, 1), (16, 64, 128, 128)),
    "padded": (lambda: nn.Conv2d(64, 128, 3, padding=1), (64, 64, 56, 56)),
    "strided": (lambda: nn.Conv2d(64, 128, 5, 2, 1), (32, 64, 112, 112)),
    "depthwise": (lambda: nn.Conv2d(64, 64, 3, padding=1, groups=64), (16, 64, 64, 64)),
    "three dims": (lambda: nn.Conv3d(32, 16, 3, padding=1), (8, 32, 16, 32, 32)),
}


@pytest.mark.parametrize("target", ["a100", "rtx-4090", "h200"])
@pytest.mark.parametrize("layer", LAYERS)
def test_it_compiles_for(layer: str, target: str) -> None:
    """At full size, without spills, within the target's shared memory."""
    make, shape = LAYERS[layer]
    gpu = find_gpu(target)
    rank = len(shape) - 2
    module = Of(lambda m, x: torch.relu(m[0](x).mean(list(range(2, 2 + rank)))), make()).to("meta").eval()
    compiled = compile_for(module, [torch.empty(shape, device="meta")], PlanOptions(sm_count=gpu.sm_count), gpu)
    assert len(compiled) == 1, "one launch"
    for kernel in compiled.values():
        assert kernel.spill_bytes == 0
        assert kernel.shared_bytes <= gpu.shared_bytes_per_block
