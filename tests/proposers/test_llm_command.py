"""`tilewright optimize --llm` as its users run it: the real gate, and a search for a planted key afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cli.samples import Command, Ended
from tests.cli.test_commands import POINTWISE
from tests.proposers.llm_server import KEY, code, say, serving, status
from tilewright.api import optimize_file
from tilewright.cli.main import main
from tilewright.proposers.llm import Settings
from tilewright.task.task import Task

REPLY = """import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def sigmoid_tanh_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x = tl.load(p_x + o, mask=m, other=0.0)
    t = 2.0 / (1.0 + tl.exp(-4.0 * x)) - 1.0
    y = 1.0 / (1.0 + tl.exp(-(t + 1.0)))
    tl.store(p_y + o, y * x, mask=m)


def sigmoid_tanh(x):
    y = torch.empty_like(x)
    n = x.numel()
    sigmoid_tanh_kernel[(triton.cdiv(n, 1024),)](x, y, n, BLOCK=1024)
    return y


class ModelNew(nn.Module):
    def forward(self, x):
        return sigmoid_tanh(x.contiguous())
"""

#: Looks for the key wherever it can, and says where it found it, without the key itself.
SPY = REPLY.replace(
    "import torch\n",
    """import glob
import os
import torch
""",
    1,
).replace(
    "class ModelNew(nn.Module):\n",
    """class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        wanted = ("sk-" + "planted").encode()
        found = [name for name, value in os.environ.items() if wanted in value.encode()]
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                found += [path] if wanted in open(path, "rb").read() else []
            except OSError:
                pass
        raise RuntimeError(f"SPY FOUND {len(found)} {found}")

""",
)


def tilewright(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose environment held the key from its start."""
    command = [sys.executable, "-m", "tilewright", *arguments]
    variables: Mapping[str, str] = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **environment}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pointwise.py").write_text(POINTWISE.replace("512, 4096", "64, 512"))
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command as its entry point does, in this process."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["tilewright", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capfd.readouterr()
        return Ended(int(str(leaving.value.code)), captured.out, captured.err)

    return run


ARGUMENTS = ("optimize", "pointwise.py", "--gpu", "4090", "--stage", "block_tiling", "--out", "out")


def test_a_planted_key_is_found_nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = (status(429, f"slow, {KEY}", Retry_After="0"), code(SPY), say(f"your key is {KEY}"), code(REPLY))
    with serving(monkeypatch, *acts) as script:
        asked = ("--llm", "toy", "--llm-samples", "1", "--llm-repairs", "3", "--effort", "none", "--json")
        done = tilewright(folder, *ARGUMENTS, *asked, OPENAI_LOG="debug")
    assert done.returncode in (0, 1), done.stderr
    assert len(script.requests) == 4
    assert any(KEY in key for key in script.keys)
    study = json.loads(done.stdout)["study"]
    spied = [trial for trial in study["trials"] if "SPY FOUND" in json.dumps(trial)]
    assert spied
    assert all("SPY FOUND 0" in json.dumps(trial) for trial in spied)
    assert not leaks(folder)
    assert KEY not in done.stdout + done.stderr
    faults = [exchange["fault"] for exchange in study["exchanges"]]
    assert faults == ["rate limit", None, "unreadable", None]
    assert "your key is [key]" in study["exchanges"][2]["reply"]
    judged = [trial for trial in study["trials"] if trial["candidate"]["origin"] == "llm"]
    assert len(judged) == 2
    assert judged[0]["outcome"] == "rejected"
    assert judged[1]["outcome"] in ("kept", "reverted")
    assert any("4 of 32 requests" in note for note in study["notes"])


def leaks(folder: Path) -> list[Path]:
    """Files below `folder` that hold the key."""
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_without_a_key_or_server_the_command_ends_with_one_line(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("OPENAI_ADMIN_KEY", raising=False)
    for key, words in (("", "there is no key"), (KEY, "there is no language model's server")):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        ended = command(*ARGUMENTS, "--llm", "toy")
        assert ended.code == 2
        lines = [line for line in ended.err.splitlines() if line.startswith("tilewright:")]
        assert len(lines) == 1
        assert words in lines[0]
        assert KEY not in ended.err
    for arguments in (("--llm", "replay:none.sqlite"), ("--llm", "toy", "--llm-cost", "1"), ("--llm", "")):
        assert command(*ARGUMENTS, *arguments).code == 2
    assert not (folder / "out").exists()


def test_auto_goes_on_without_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    went_on: dict[str, object] = {}

    def search(task: Task, **options: object) -> None:
        went_on.update(options)

    monkeypatch.setattr("tilewright.search.run.optimize_task", search)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_ADMIN_KEY", raising=False)
    optimize_file("pointwise.py", gpu="4090", llm=Settings("auto"))
    assert went_on["conversation"] is None
    assert "no language model was asked: there is no key" in str(went_on["notes"])
