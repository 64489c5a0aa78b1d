"""Launches that are made again: kernels are stood in for by functions that read and write at addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.module import replay
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions


class Compiled:
    """A kernel compiled for arguments of one kind."""

    function = packed_metadata = None

    def __init__(self, body: Callable[..., None], kind: tuple[Any, ...]) -> None:
        self.body, self.kind = body, kind

    def run(self, x: int, y: int, z: int, stream: int, function: Any, metadata: Any, *rest: Any) -> None:
        arguments = rest[3:]
        assert kind_of(arguments) == self.kind
        self.body((x, y, z), *(one.data_ptr() if isinstance(one, torch.Tensor) else one for one in arguments))


def kind_of(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What Triton compiles for, of tensors or of their addresses; what is 1, and multiples of 16, of numbers."""
    values = [one.data_ptr() if isinstance(one, torch.Tensor) else one for one in arguments]
    return tuple((one % 16 == 0, one == 1) for one in values)


class Kernel:
    """A kernel with Triton's interface; notes how often it was launched that way."""

    def __init__(self, body: Callable[..., None], arg_names: list[str]) -> None:
        self.body, self.arg_names, self.launches = body, arg_names, 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Compiled]:
        def launch(*arguments: Any, num_warps: int = 4, **named: Any) -> Compiled:
            self.launches += 1
            given = (*arguments, *(named[name] for name in self.arg_names[len(arguments) :]))
            compiled = Compiled(self.body, kind_of(given))
            compiled.run(*(*grid, 1, 1)[:3], 0, None, None, None, None, None, *given)
            return compiled

        return launch


def floats(address: int, count: int) -> Any:
    return (ctypes.c_float * count).from_address(address)


def scale_body(grid: tuple[int, ...], x: int, out: int, total: int, N: int, call: int, FACTOR: int) -> None:
    source, target, sums = floats(x, N), floats(out, N), floats(total, 1)
    for i in range(N):
        target[i] = source[i] * FACTOR
        sums[0] += source[i]
    CALLS.append(call)


def add_body(grid: tuple[int, ...], scaled: int, other: int, total: int, out: int, N: int) -> None:
    first, second, sums, target = floats(scaled, N), floats(other, N), floats(total, 1), floats(out, N)
    for i in range(N):
        target[i] = first[i] + second[i] + sums[0]


CALLS: list[int] = []


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton and CUDA as replay sees them."""
    driver = SimpleNamespace(active=SimpleNamespace(get_current_stream=lambda device: 0))
    monkeypatch.setattr(replay, "triton", SimpleNamespace(runtime=SimpleNamespace(driver=driver)))
    monkeypatch.setattr(replay, "CompiledKernel", Compiled)
    CALLS.clear()


class Wrapped:
    """A wrapper of two launches with scratch, zeros, a number that counts calls, and a view as its result."""

    def __init__(self, *, out_of_sight: bool = False) -> None:
        self.scale = Kernel(scale_body, ["x", "out", "total", "N", "call", "FACTOR"])
        self.add = Kernel(add_body, ["scaled", "other", "total", "out", "N"])
        scale, add, self.calls = replay.noted(self.scale), replay.noted(self.add), 0

        def count(x: torch.Tensor) -> replay.Number:
            self.calls += 16
            return replay.Number(self.calls)

        def wrapper(x: torch.Tensor, other: torch.Tensor, more: float) -> torch.Tensor:
            flat, n = x.reshape(-1), x.numel()
            call = replay.renew(count, x)
            total = replay.note(torch.zeros(1), cleared=True)
            scaled = torch.empty(n) if out_of_sight else replay.note(torch.empty(n))
            scale[(n,)](flat, scaled, total, n, call, FACTOR=int(more))
            out = replay.note(torch.empty(n))
            add[(n,)](scaled, other[1:], total, out, N=n, num_warps=8)
            return out.view(x.shape)

        self.run = replay.replayed(wrapper)

    @property
    def launches(self) -> int:
        return self.scale.launches + self.add.launches


def right(x: torch.Tensor, other: torch.Tensor, more: float) -> torch.Tensor:
    return x * int(more) + other[1:].view(x.shape) + x.sum()


def check(wrapped: Wrapped, x: torch.Tensor, other: torch.Tensor, more: float) -> torch.Tensor:
    found = wrapped.run(x, other, more)
    torch.testing.assert_close(found, right(x, other, more))
    return found


def test_a_call_like_an_earlier_one_is_not_launched_by_triton() -> None:
    wrapped = Wrapped()
    first = check(wrapped, torch.randn(3, 4), torch.randn(13), 2.0)
    kept = first.clone()
    for _ in range(3):
        check(wrapped, torch.randn(3, 4), torch.randn(13), 2.0)
    assert wrapped.launches == 2
    assert torch.equal(first, kept), "an earlier result was written again"
    assert CALLS == [16, 32, 48, 64]


@pytest.mark.parametrize(
    ("x", "other", "more"),
    [
        (torch.randn(3, 5), torch.randn(16), 2.0),
        (torch.randn(4, 3), torch.randn(13), 2.0),
        (torch.randn(3, 4), torch.randn(13), 3.0),
        (torch.randn(13)[1:].view(3, 4), torch.randn(13), 2.0),
        (torch.randn(3, 4), torch.randn(26)[::2], -0.0),
    ],
    ids=["size", "shape", "number", "alignment", "strides"],
)
def test_a_call_of_another_form_is_launched_anew(x: torch.Tensor, other: torch.Tensor, more: float) -> None:
    wrapped = Wrapped()
    check(wrapped, torch.randn(3, 4), torch.randn(13), 2.0)
    if other.is_contiguous():
        check(wrapped, x, other, more)
    else:
        wrapped.run(x, other, more)
    assert wrapped.launches == 4


def test_zeros_of_either_sign_are_two_numbers() -> None:
    wrapped = Wrapped()
    for more in (0.0, -0.0, 0.0, -0.0):
        wrapped.run(torch.randn(3, 4), torch.randn(13), more)
    assert wrapped.launches == 4


def test_memory_made_out_of_sight_keeps_a_wrapper_as_written() -> None:
    wrapped = Wrapped(out_of_sight=True)
    for _ in range(3):
        check(wrapped, torch.randn(3, 4), torch.randn(13), 2.0)
    assert wrapped.launches == 6


def test_launches_on_a_view_of_shared_memory_stay_as_written() -> None:
    wrapped, both = Wrapped(), torch.randn(25)
    for _ in range(3):
        check(wrapped, both[:12].view(3, 4), both[12:], 2.0)
    assert wrapped.launches == 6


def test_tensors_that_share_memory_are_replayed_like_others() -> None:
    wrapped, both = Wrapped(), torch.randn(25)
    check(wrapped, torch.randn(3, 4), torch.randn(13), 2.0)
    check(wrapped, both[:12].view(3, 4), both[12:], 2.0)
    assert wrapped.launches == 2


class Added:
    """A wrapper of one launch that takes its arguments as they are."""

    def __init__(self) -> None:
        self.kernel = Kernel(add_body, ["scaled", "other", "total", "out", "N"])
        noted = replay.noted(self.kernel)

        def wrapper(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            out = replay.note(torch.empty(4))
            noted[(1,)](x, y, x, out, N=4)
            return out

        self.run = replay.replayed(wrapper)


def test_one_tensor_in_two_places_is_another_form() -> None:
    added = Added()
    for same in (True, False, True, False, True):
        x = torch.randn(4)
        y = x if same else torch.randn(4)
        torch.testing.assert_close(added.run(x, y), x + y + x[0])
    assert added.kernel.launches == 2


def test_slices_of_one_tensor_keep_apart() -> None:
    added, both = Added(), torch.randn(24)
    for start in (4, 8, 12, 16):
        x, y = both[:4], both[start : start + 4]
        torch.testing.assert_close(added.run(x, y), x + y + x[0])
    assert added.kernel.launches == 1


def test_where_nothing_is_compiled_a_wrapper_runs_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CompiledKernel", type(None))
    wrapped = Wrapped()
    for _ in range(3):
        check(wrapped, torch.randn(3, 4), torch.randn(13), 2.0)
    assert wrapped.launches == 6


def test_a_failed_call_leaves_no_record_open() -> None:
    wrapped = Wrapped()
    with pytest.raises(TypeError):
        wrapped.run(torch.randn(3, 4), None, 2.0)
    assert replay.open_record() is None
    check(wrapped, torch.randn(3, 4), torch.randn(13), 2.0)
    assert wrapped.launches == 3


def test_schedules_of_a_table_are_told_apart() -> None:
    kernel = Kernel(add_body, ["scaled", "other", "total", "out", "N"])
    noted = replay.noted(kernel)
    seen = []

    @replay.replayed
    def wrapper(x: torch.Tensor, schedule: dict[str, int]) -> torch.Tensor:
        seen.append(schedule["BLOCK"])
        out = replay.note(torch.empty(4))
        noted[(1,)](x, x, x, out, N=4, num_warps=schedule["BLOCK"])
        return out

    small, large = {"BLOCK": 1}, {"BLOCK": 2}
    for schedule in (small, large, small, large):
        x = torch.randn(4)
        torch.testing.assert_close(wrapper(x, schedule=schedule), x + x + x[0])
    assert seen == [1, 2]


class Scaled(nn.Module):
    """A number comes before the tensor; two kernels."""

    def forward(self, gain: float, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.softmax(x * gain, 1) * gain, 0)


def test_the_first_argument_of_all_launches_is_a_tensor() -> None:
    graph = simplify(capture(Scaled().eval(), [2.5, torch.randn(4, 8)])).graph
    name, arguments = write_forward(plan_module(graph, PlanOptions())).whole or ("", ())
    assert name == "launch_all"
    assert arguments == ("x", "gain")
