"""Emitted modules on a GPU: calls that are replayed, beside the reference."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions

pytestmark = pytest.mark.gpu


class Block(nn.Module):
    """[M, 64] -> [M, 64]: a product, and a layer norm over what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(F.gelu(self.linear(x)) + x)


class Convolved(nn.Module):
    """[N, 8, H, W] -> [N, 16, H, W]: float16 operands, marks that are numbered by call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)) * 2.0


class Averaged(nn.Module):
    """[N, 8, H, W] -> [N, 16]: counters that a kernel leaves as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 16, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mean(self.up(x), dim=(2, 3))


CASES = [(Block, (32, 64)), (Convolved, (2, 8, 12, 12)), (Averaged, (3, 8, 10, 10))]


def imported(text: str) -> ModuleType:
    """A module of a file of its own: Triton reads kernels' sources from there."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
        file.write(text)
    name = Path(file.name).stem
    spec = importlib.util.spec_from_file_location(name, file.name)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def emitted(kind: type[nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """A module on the GPU, and its drop-in, which shares the parameters."""
    torch.manual_seed(0)
    module = kind().eval().cuda().requires_grad_(False)
    graph = simplify(capture(kind().eval(), [torch.randn(shape)])).graph
    text = write_live_file(write_forward(plan_module(graph, PlanOptions())), description="")
    return module, imported(text).ModelNew(module)


def check(module: nn.Module, drop_in: Any, x: torch.Tensor) -> None:
    torch.testing.assert_close(drop_in(x), module(x), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_calls_of_several_forms_after_changes(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    module, drop_in = emitted(kind, shape)
    for batch in (shape[0], 1, shape[0], 5, 1, shape[0]):
        for _ in range(3):
            check(module, drop_in, torch.randn(batch, *shape[1:], device="cuda"))
        for parameter in module.parameters():
            parameter.data.mul_(1.1)
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    check(module, drop_in, torch.randn(shape, device="cuda"))


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_earlier_results_stay(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    module, drop_in = emitted(kind, shape)
    inputs = [torch.randn(shape, device="cuda") for _ in range(6)]
    results = [drop_in(x) for x in inputs]
    for x, result in zip(inputs, results, strict=True):
        torch.testing.assert_close(result, module(x), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_captured_graph_follows_inputs_and_parameters(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    module, drop_in = emitted(kind, shape)
    x = torch.randn(shape, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            drop_in(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = drop_in(x)
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        for parameter in module.parameters():
            parameter.data.mul_(0.9)
        graph.replay()
        torch.testing.assert_close(result, module(x), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_threads_and_streams(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    module, drop_in = emitted(kind, shape)
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
                generator = torch.Generator("cuda").manual_seed(seed)
                for _ in range(20):
                    check(module, drop_in, torch.randn(shape, device="cuda", generator=generator))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]


def test_torch_compile_takes_a_drop_in() -> None:
    module, drop_in = emitted(Block, (32, 64))
    compiled = torch.compile(drop_in)
    x = torch.randn(32, 64, device="cuda")
    torch.testing.assert_close(compiled(x), module(x), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_launches_are_replayed(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    _, drop_in = emitted(kind, shape)
    for _ in range(3):
        drop_in(torch.randn(shape, device="cuda"))
    made = sys.modules[type(drop_in).__mro__[1].__module__]
    wrappers = [value for value in vars(made).values() if isinstance(value, made.replayed)]
    assert any(isinstance(one, made.Replay) for wrapper in wrappers for one in wrapper.replays.values())
