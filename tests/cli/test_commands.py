"""Every command through its entry point: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.samples import DOCUMENT, Command
from tilewright import __version__
from tilewright.task.document import read_document

CONSOLE_SCRIPT = str(Path(sys.executable).parent / "tilewright")


def ended(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("entry", [[CONSOLE_SCRIPT], [sys.executable, "-m", "tilewright"]], ids=["script", "module"])
def test_both_entry_points(entry: list[str], folder: Path) -> None:
    version = ended(*entry, "--version", cwd=folder)
    assert (version.returncode, version.stdout) == (0, f"tilewright {__version__}\n")
    missing = ended(*entry, "inspect", "none.txt", cwd=folder)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "none.txt: there is no such file" in missing.stderr


def test_help_names_every_command_and_the_exit_codes(command: Command) -> None:
    shown = command("--help").out
    for name in ("optimize", "verify", "inspect", "prompt", "gpus", "explain", "Exit codes"):
        assert name in shown


def test_help_needs_no_torch(folder: Path) -> None:
    code = "import sys, tilewright.cli.main; sys.exit('torch' in sys.modules)"
    assert ended(sys.executable, "-c", code, cwd=folder).returncode == 0


def test_inspect_a_document_alone(command: Command) -> None:
    shown = command("inspect", "document.txt")
    assert shown.code == 0
    for words in ("RTX 4090", "memory_access", "scale_kernel", "launch__grid_size", "no reference"):
        assert words in shown.out


def test_inspect_as_json(command: Command) -> None:
    report = command("inspect", "document.txt", "--json").json
    assert report["schema"] == "tilewright.inspection"
    assert report["gpu"]["key"] == "rtx-4090"
    assert report["stages"] == ["memory_access"]
    assert report["kernels"] == ["scale_kernel"]
    assert report["metrics"]["scale_kernel"]["launch__grid_size"] == 12
    assert report["has_reference"] is False
    assert report["work"] is None


def test_inspect_a_module_counts_its_work(command: Command) -> None:
    report = command("inspect", "model.py", "--gpu", "4090", "--json").json
    assert report["operations"][0].startswith("aten.linear")
    assert report["input_shapes"] == [[6, 16]]
    assert report["output_shapes"] == [[6, 24]]
    assert report["work"]["read_bytes"] == 4 * (6 * 16 + 24 * 16 + 24)
    assert report["work"]["written_bytes"] == 4 * 6 * 24
    assert report["speed_of_light"]["tf32"]["time_ms"] > 0
    shown = command("inspect", "model.py", "--gpu", "4090").out
    assert "speed of light on RTX 4090" in shown


def test_inspect_does_not_run_a_documents_code(command: Command, folder: Path) -> None:
    (folder / "document.txt").write_text(DOCUMENT.replace("import torch\n", "open('ran', 'w')\nimport torch\n", 1))
    assert command("inspect", "document.txt").code == 0
    assert not (folder / "ran").exists()


def test_given_code_runs_in_a_process_of_its_own(command: Command, folder: Path) -> None:
    planted = DOCUMENT.replace("import torch\n", "import os\nos._exit(7)\nimport torch\n", 1)
    (folder / "document.txt").write_text(planted)
    dead = command("inspect", "document.txt", "--init", "[]", "--inputs", "rand(8)")
    assert dead.code == 2
    assert "could not be called" in dead.err


def test_prompt_writes_a_document_that_reads_back(command: Command) -> None:
    written = command("prompt", "document.txt", "--stage", "advanced_memory")
    assert written.code == 0
    read = read_document(written.out)
    assert read.rules.stage == "advanced_memory"
    assert "scale_kernel" in read.code
    assert read.metrics["scale_kernel"]["launch__grid_size"] == 12
    of_module = command("prompt", "model.py", "--stage", "memory_access", "--gpu", "4090")
    assert "class ModelNew" in read_document(of_module.out).code


def test_gpus(command: Command) -> None:
    shown = command("gpus")
    assert shown.code == 0
    assert "rtx-4090" in shown.out
    report = command("gpus", "--json").json
    assert {"rtx-4090", "h200"} <= {gpu["key"] for gpu in report["gpus"]}
    assert all(gpu["sources"] for gpu in report["gpus"])


def test_explain(command: Command) -> None:
    names = command("explain").out.split()
    assert names
    assert len(command("explain", names[0]).out) > 40
    unknown = command("explain", "no.such.check")
    assert unknown.code == 2
    assert "no.such.check" in unknown.err


def test_verify_accepts_and_rejects(command: Command, folder: Path) -> None:
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.md").write_text(f"Faster:\n\n```python\n{RIGHT.replace('* 2.0', '* 2.5')}```\n")
    right = command("verify", "model.py", "right.py", "--gpu", "4090", "--effort", "none", "--json")
    assert right.code == 0, right.json
    assert right.json["accepted"] is True
    assert right.json["verdict"]["launches"]
    wrong = command("verify", "model.py", "wrong.md", "--gpu", "4090", "--effort", "none")
    assert wrong.code == 1
    assert "rejected for" in wrong.out


@pytest.mark.parametrize("as_json", [False, True])
def test_optimize_writes_a_verified_module(command: Command, folder: Path, as_json: bool) -> None:
    (folder / "pointwise.py").write_text(POINTWISE)
    extra = ["--json"] if as_json else []
    done = command("optimize", "pointwise.py", "--gpu", "4090", "--effort", "none", "--out", "out", *extra)
    assert done.code == 0, done.err + done.out
    written = {path.name for path in (folder / "out").iterdir()}
    assert {"model_new.py", "report.json", "report.html"} <= written
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["verified"] is True
    assert report["study"]["timing_kind"] == "modelled"
    assert report["study"]["command"].startswith("tilewright optimize pointwise.py")
    assert (folder / "out" / "model_new.py").read_text() == report["code"]
    assert "stage" in done.err
    if as_json:
        assert done.json == report
    else:
        for words in ("reference", "ours", "modelled", "verified module", "written to out"):
            assert words in done.out


def test_optimize_where_nothing_is_to_gain(command: Command, folder: Path) -> None:
    (folder / "alone.py").write_text(POINTWISE.replace(POINTWISE_BODY, "return torch.sort(x).values"))
    done = command("optimize", "alone.py", "--gpu", "4090", "--effort", "none", "--out", "out", "--json")
    assert done.code == 1
    assert done.json["verified"] is False
    assert done.json["verdict"].startswith("Nothing better was found")
    assert not (folder / "out" / "model_new.py").exists()


def test_optimize_a_document_by_its_own_meaning(command: Command, folder: Path) -> None:
    done = command("optimize", "document.txt", "--init", "[]", "--inputs", "rand(64, 1024)", "--out", "out", "--json")
    assert done.code in (0, 1)
    study = done.json["study"]
    assert study["oracle"] == "given code"
    assert study["reference"] is None
    assert study["stages"] == ["memory_access"]
    assert any("the given code is the specification" in note for note in study["notes"])
    assert all(trial["candidate"]["origin"] == "retune" for trial in study["trials"])


def test_a_run_that_is_repeated_repeats_no_trial(command: Command, folder: Path) -> None:
    (folder / "pointwise.py").write_text(POINTWISE)
    arguments = ["optimize", "pointwise.py", "--gpu", "4090", "--effort", "none", "--out", "out", "--json"]
    first, second = command(*arguments).json, command(*arguments).json
    assert all(trial["resumed"] for trial in second["study"]["trials"])
    assert second["code"] == first["code"]


POINTWISE_BODY = "return torch.sigmoid(torch.tanh(x * 2.0) + 1.0) * x"

POINTWISE = f"""import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        {POINTWISE_BODY}


def get_inputs():
    return [torch.rand(512, 4096)]


def get_init_inputs():
    return []
"""

RIGHT = """import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def relu_double_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x = tl.load(p_x + o, mask=m, other=0.0)
    tl.store(p_y + o, tl.where(x != x, x, tl.maximum(x, 0.0)) * 2.0, mask=m)


def relu_double(x):
    y = torch.empty_like(x)
    n = x.numel()
    relu_double_kernel[(triton.cdiv(n, 64),)](x, y, n, BLOCK=64)
    return y


class ModelNew(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.linear = nn.Linear(features, 24)

    def forward(self, x):
        return relu_double(self.linear(x).contiguous())
"""
