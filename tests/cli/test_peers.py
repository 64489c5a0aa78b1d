"""Where torch.compile is faster: what the command says, writes and ends with, and what the library returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tilewright
from tests.cli.samples import Command
from tests.search.fakes import GPU, Bench, candidate
from tilewright.drop_in import NoPeerError, NothingBetterWarning
from tilewright.errors import SourceError
from tilewright.measure.peers import PEERS
from tilewright.search import run
from tilewright.search.understand import NOTHING

OURS = "class ModelNew: ...\n"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A machine with the target on which torch.compile takes 1.41 ms, ours 1.9 ms, and eager PyTorch 5 ms."""
    peers = {PEERS[0].name: 1.41, PEERS[1].name: 1.5}
    found = Bench({OURS: 1.9}, reference_ms=5.0, synthesized=[candidate(OURS)], installed=GPU, peers=peers)
    monkeypatch.setattr(run, "Tools", lambda: found.tools())
    return found


def test_a_faster_peer_is_exit_code_1_and_no_module(command: Command, folder: Path, bench: Bench) -> None:
    done = command("optimize", "model.py", "--gpu", "4090", "--out", "out")
    assert done.code == 1
    assert "torch.compile in mode default is faster: 1.41 ms, ours 1.9 ms" in " ".join(done.out.split())
    assert not (folder / "out" / "model_new.py").exists()
    assert "s left]" in done.err
    assert "took" in done.out


def test_ours_is_written_where_it_is_asked_for(command: Command, folder: Path, bench: Bench) -> None:
    done = command("optimize", "model.py", "--gpu", "4090", "--out", "out", "--keep", "--json")
    assert done.code == 0
    assert done.json["faster_peer"] == PEERS[0].name
    assert (folder / "out" / "model_new.py").read_text() == OURS
    again = command("optimize", "model.py", "--gpu", "4090", "--out", "out", "--json")  # found again in the study
    assert again.code == 1
    assert (again.json["verified"], again.json["code"]) == (False, None)
    assert (folder / "out" / "model_new.py.earlier").read_text() == OURS


def test_with_graphs_the_gpus_time_decides(command: Command, folder: Path, bench: Bench) -> None:
    bench.peers = {PEERS[0].name: 2.5}
    bench.call_times = {OURS: 3.5, PEERS[0].name: 3.0}
    arguments = ("optimize", "model.py", "--gpu", "4090", "--out", "out", "--json")
    assert command(*arguments).json["verified"] is False
    done = command(*arguments, "--graphs")
    assert done.code == 0
    assert done.json["study"]["graphs"] is True
    ours = done.json["summary"][-1]
    assert (ours["time_ms"], ours["call_ms"]) == (1.9, 3.5)


def live(**options: object) -> nn.Module:
    module = nn.Conv2d(3, 4, 3).eval()
    return tilewright.optimize(module, [torch.rand(2, 3, 8, 8)], gpu="4090", **options)  # type: ignore[arg-type]


def test_the_library_returns_what_is_asked_for(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, mode: nn.Sequential(module))
    with pytest.warns(NothingBetterWarning, match="is faster: 1.41 ms, ours 1.9 ms"):
        result = live(study=tmp_path / "s")
    assert isinstance(result, nn.Conv2d)
    compiled = live(study=tmp_path / "s", if_beaten="compiled")
    assert isinstance(compiled, nn.Sequential)
    assert compiled.tilewright_study.peer_wins  # type: ignore[union-attr]
    with pytest.raises(SourceError, match="if_beaten"):
        live(study=tmp_path / "s", if_beaten="whatever")


def test_a_channels_last_peer_brings_module_and_inputs_into_its_layout(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    class Watching(nn.Module):
        def __init__(self, module: nn.Module, mode: str | None) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.module(x)  # type: ignore[no-any-return]

    monkeypatch.setattr(torch, "compile", Watching)
    bench.peers = {PEERS[1].name: 1.0}
    bench.understanding = replace(NOTHING, input_shapes=((2, 3, 8, 8),))
    compiled = live(study=tmp_path / "s", if_beaten="compiled")
    x = torch.rand(2, 3, 8, 8)
    assert compiled(x).shape == (2, 4, 6, 6)
    assert seen == [True]
    assert next(compiled.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_without_peers_there_is_none_to_compile(bench: Bench, tmp_path: Path) -> None:
    bench.peers = {}
    bench.reference_ms = 1.0
    with pytest.warns(NothingBetterWarning):
        result = live(study=tmp_path / "s", if_beaten="compiled")
    with pytest.raises(NoPeerError, match="no mode"):
        tilewright.compiled_peer(result, result.tilewright_study)  # type: ignore[arg-type]
