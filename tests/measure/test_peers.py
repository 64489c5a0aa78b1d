"""The peers in the measuring process, with another torch.compile in its place: built, checked, limited in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tilewright.measure import compiled
from tilewright.measure.compiled import PeerBench, PeerError, within
from tilewright.measure.peers import PEERS, find_peer, peers_for
from tilewright.measure.subjects import input_sets
from tilewright.task.module_source import build_module
from tilewright.task.task import InputSpec, ModuleSource

SOURCE = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x):
        return torch.relu(self.conv(x)) * self.scale, x.argmax()
"""
Compile = Callable[[nn.Module], Callable[..., Any]]


def bench() -> PeerBench:
    source = ModuleSource(SOURCE, "Model", init_args=(4,), inputs=(InputSpec("rand", (2, 4, 8, 8)),))
    reference = build_module(source, seed=3).requires_grad_(False)
    return PeerBench(source, reference, input_sets(source, "cpu", 1 << 30), "cpu")


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[Compile], list[str | None]]:
    """Put a function in torch.compile's place; what is returned holds the modes that were asked for."""

    def put(function: Compile) -> list[str | None]:
        modes: list[str | None] = []

        def fake(module: nn.Module, mode: str | None = None) -> Callable[..., Any]:
            modes.append(mode)
            return function(module)

        monkeypatch.setattr(torch, "compile", fake)
        monkeypatch.setattr(compiled, "prepare_torch", lambda: None)
        return modes

    return put


def test_channels_last_is_a_peer_where_it_means_something() -> None:
    assert [peer.name for peer in peers_for(["default"], has_layouts=False)] == ["torch.compile in mode default"]
    assert len(peers_for(["default", "max-autotune-no-cudagraphs"], has_layouts=True)) == len(PEERS)
    assert all(find_peer(peer.name) is peer for peer in PEERS)


def test_a_peer_is_compiled_once_and_called_on_every_set_of_inputs(compiles: Any) -> None:
    modes = compiles(lambda module: module)
    peers, calls = bench(), 0
    for _ in range(2):
        for peer in PEERS:
            subject = peers.subject(peer, 60.0)
            assert subject.failure == ""
            calls += len([call() for call in subject.calls])
    assert modes == [None, None, "max-autotune-no-cudagraphs", "max-autotune-no-cudagraphs"]
    assert calls == 2 * len(PEERS) * len(peers.sets)


def test_channels_last_converts_parameters_and_inputs_of_its_own_module_alone(compiles: Any) -> None:
    seen: list[tuple[bool, bool]] = []

    def watching(module: Any) -> Callable[..., Any]:
        def call(x: torch.Tensor) -> Any:
            layouts = (tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x, module.conv.weight))
            seen.append(tuple(layouts))  # type: ignore[arg-type]
            return module(x)

        return call

    compiles(watching)
    peers = bench()
    for peer in (PEERS[1], PEERS[0]):
        peers.subject(peer, 60.0)
    assert seen == [(True, True), (False, False)]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda pair: (pair[0] * 1.001, pair[1]), "relative error"),
        (lambda pair: (pair[0].double(), pair[1]), "shapes or types"),
        (lambda pair: (pair[0], pair[1] + 1), "must agree exactly"),
        (lambda pair: (pair[0] + float("nan"), pair[1]), "not finite"),
    ],
)
def test_a_peer_whose_outputs_are_wrong_has_no_time(compiles: Any, wrong: Callable[..., Any], why: str) -> None:
    compiles(lambda module: lambda x: wrong(module(x)))
    assert why in bench().subject(PEERS[0], 60.0).failure


def test_a_peer_that_cannot_be_compiled_is_named_with_its_reason(compiles: Any) -> None:
    def broken(module: nn.Module) -> Callable[..., Any]:
        raise RuntimeError("BackendCompilerFailed\nand much more")

    compiles(broken)
    assert bench().subject(PEERS[0], 60.0).failure == "RuntimeError: BackendCompilerFailed"


def test_the_references_luck_with_few_elements_is_no_bar(compiles: Any) -> None:
    peers = bench()
    assert peers.reference(*peers.sets[0])[0].numel() < compiled.FEW
    off = 1.0 + 3e-7  # a few units in the last place
    compiles(lambda module: lambda x: (module(x)[0] * off, module(x)[1]))
    assert peers.subject(PEERS[0], 60.0).failure == ""
    right = peers._right[0]
    assert right.pool.norm >= right.errors.norm
    peers.forget_outputs()
    assert peers.subject(PEERS[2], 60.0).failure == ""  # they are made again


def test_what_one_peer_takes_is_not_left_to_the_next(compiles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_LEAST_S", 0.02)

    def slow(module: nn.Module) -> Callable[..., Any]:
        time.sleep(30)
        return module

    compiles(slow)
    peers = bench()
    assert "that were left" in peers.subject(PEERS[0], 0.05).failure
    assert peers.subject(PEERS[2], 0.05).failure == "no time was left to compile it"


def test_a_limit_that_was_kept_leaves_nothing_behind() -> None:
    with within(60.0):
        pass
    with pytest.raises(PeerError, match="no time was left"), within(0.0):
        pass


@pytest.mark.gpu
def test_torch_compile_is_a_peer_on_a_gpu() -> None:
    from tests.measure.test_clock import module_source
    from tests.measure.test_clock import task as real_task
    from tilewright.measure.session import ClockSession

    small = module_source(init_args=(64, 0.5), inputs=(InputSpec("rand", (32, 64)),))
    with ClockSession(real_task(reference=small)) as clock:
        report = clock.measure([], "quick", PEERS[:1], 60.0)
    assert not report.failures
    peer = report.measured[PEERS[0].name]
    assert peer.call_ms is not None
    assert 0 < peer.gpu_ms < peer.call_ms < 1.0
