"""The library: a live module in, a drop-in module out, the evidence beside it."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tilewright
from tilewright.drop_in import NothingBetterWarning
from tilewright.errors import CaptureError, InputMismatchError, SourceError, UnknownGpuError
from tilewright.values.study import Study


class Block(nn.Module):
    """Conv2d -> GroupNorm -> hardswish -> max over C."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.amax(torch.nn.functional.hardswish(self.norm(self.conv(x))), dim=1)


def optimized(module: nn.Module, tmp_path: Path, *shape: int) -> nn.Module:
    return tilewright.optimize(
        module, [torch.rand(*shape)], gpu="4090", effort="none", study=tmp_path / "study.sqlite", out=tmp_path / "out"
    )


def test_the_result_takes_the_place_of_the_module(tmp_path: Path) -> None:
    module = Block().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result = optimized(module, tmp_path, 16, 3, 256, 256)
    study = result.tilewright_study
    assert isinstance(study, Study)
    assert study.best is not None, study
    assert not any("group_norm" in name for name in study.best.candidate.native)
    assert study.best.verdict is not None
    assert study.best.verdict.accepted
    assert result is not module
    assert list(result.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(
        ours.data_ptr() == theirs.data_ptr()
        for ours, theirs in zip(result.parameters(), module.parameters(), strict=True)
    )
    assert {"model_new.py", "report.json", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}

    x = torch.randn(2, 3, 17, 19)
    assert torch.equal(result(x), module(x))
    with torch.no_grad():
        module.conv.bias.add_(1.0)  # type: ignore[union-attr]
    assert torch.equal(result(x), module(x))
    result(x).sum().backward()
    assert module.conv.weight.grad is not None
    result.load_state_dict({name: value * 0.5 for name, value in before.items()})
    assert torch.equal(module.conv.weight, before["conv.weight"] * 0.5)
    result.train()
    assert module.training


def test_where_nothing_is_better_the_module_comes_back_as_it_is(tmp_path: Path) -> None:
    class Sorts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sort(x).values

    module = Sorts()
    with pytest.warns(NothingBetterWarning, match="Nothing better was found for Sorts"):
        result = optimized(module, tmp_path, 16, 16)
    assert result is module
    assert result.tilewright_study.best is None  # type: ignore[union-attr]


def test_bad_input_is_told_apart(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(InputMismatchError, match="do not fit"):
        optimized(Block(), tmp_path, 1, 4, 8, 8)
    with pytest.raises(CaptureError, match=r"item\(\)"):
        optimized(Branches(), tmp_path, 8)
    with pytest.raises(UnknownGpuError, match="4091"):
        tilewright.optimize(Block(), [torch.rand(1, 3, 8, 8)], gpu="4091")
    with pytest.raises(SourceError):
        tilewright.optimize(torch.sin, [torch.rand(3)], gpu="4090")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "study.sqlite").exists()


def test_inspect_from_python() -> None:
    inspection = tilewright.inspect(Block(), [torch.rand(2, 3, 16, 16)], gpu="4090")
    assert inspection.understanding.output_shapes == ((2, 14, 14),)
    assert inspection.understanding.work is not None
    with pytest.raises(SourceError, match="example inputs"):
        tilewright.inspect(Block(), gpu="4090")


@pytest.mark.gpu
def test_on_a_gpu_the_result_runs_its_kernels(tmp_path: Path) -> None:
    module = Block().eval().cuda()
    x = torch.randn(8, 3, 64, 64, device="cuda")
    result = tilewright.optimize(module, [x], effort="none", study=tmp_path / "study.sqlite")
    assert result.tilewright_study.timing_kind == "measured"  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(result(x), module(x), rtol=2e-3, atol=2e-3)


def test_functions_keep_their_names_beside_subpackages_of_the_same_name() -> None:
    import importlib

    importlib.import_module("tilewright.gate.verify")
    importlib.import_module("tilewright.measure.model")
    assert all(callable(getattr(tilewright, name)) for name in ("optimize", "verify", "inspect", "profile", "diagnose"))


class Gated(nn.Module):
    """What a drop-in has to keep: options, methods, attributes, optional arguments, numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate, self.width = "gelu", width

    def doubled(self) -> int:
        return 2 * self.width

    def forward(self, x: torch.Tensor, gain: float = 1.5, *, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.norm(x) * gain
        y = y if mask is None else y * mask
        return nn.functional.gelu(y) if self.gate == "gelu" else torch.tanh(y)


def test_the_result_is_the_module_in_every_other_respect(tmp_path: Path) -> None:
    module = Gated(512).eval()
    result = optimized(module, tmp_path, 1024, 512)
    assert result is not module
    assert isinstance(result, Gated)
    assert result.doubled() == 1024
    x, mask = torch.randn(3, 512), torch.rand(3, 512)
    assert torch.equal(result(x=x, gain=2.0, mask=mask), module(x, 2.0, mask=mask))
    result.gate = "tanh"
    assert module.gate == "tanh"
    assert torch.equal(result(x), module(x))
    assert "tilewright_study" not in vars(module)
    twin = copy.deepcopy(result)
    assert twin.norm.weight.data_ptr() != module.norm.weight.data_ptr()
    assert torch.equal(twin(x), module(x))
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, mask=mask), module(x, mask=mask))


def test_the_result_can_be_saved_and_loaded_in_another_process(tmp_path: Path) -> None:
    module = nn.Sequential(nn.LayerNorm(512), nn.GELU()).eval()
    result = optimized(module, tmp_path, 1024, 512)
    assert result is not module
    torch.save(result, tmp_path / "module.pt")
    script = (
        "import sys, torch\n"
        "loaded = torch.load(sys.argv[1], weights_only=False)\n"
        "print(type(loaded).__name__, 'Triton' in sys.modules[type(loaded).__mro__[1].__module__].__doc__)\n"
        "print(loaded(torch.ones(2, 512)).abs().sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "module.pt")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["Sequential", "True", "0.0"]


def test_without_a_gpu_the_target_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.task.load.detect_gpu", lambda: None)
    with pytest.raises(UnknownGpuError, match="none is installed"):
        tilewright.optimize(Block(), [torch.rand(1, 3, 8, 8)])


def test_a_forward_pass_replaced_on_the_instance_is_refused() -> None:
    module = Block()
    module.forward = lambda x: x  # type: ignore[assignment, method-assign]
    with pytest.raises(SourceError, match="replaced on the instance"):
        tilewright.optimize(module, [torch.rand(1, 3, 8, 8)], gpu="4090")
