"""Whatever a candidate does to its process, the parent gets a clear outcome and leaves nothing behind."""

from __future__ import annotations

import base64
import sys
import tempfile
import time
from pathlib import Path

import cloudpickle
import pytest
import torch

from tilewright.gate.inside.runtime import FILE, gpu_figures
from tilewright.gpu.table import find_gpu
from tilewright.sandbox import landlock, paths, wire
from tilewright.sandbox.forking import server_pids
from tilewright.sandbox.job import JobResult, Limits, Outcome, run_job
from tilewright.sandbox.processes import descendants

MODEL = """
import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        {body}
        return x * 2
"""


def run_candidate(top: str = "", body: str = "", deadline_s: float = 30.0, limits: Limits | None = None) -> JobResult:
    """Run a candidate on one input, in the interpreter's environment."""
    packed: dict[str, torch.Tensor] = {}
    probe = {
        "index": 0,
        "constructor": 0,
        "weights_key": "w",
        "inputs": wire.pack([torch.arange(4.0)], packed, "inputs"),
        "own": True,
        "work": 4,
        "multiprocessors": 128,
        "precision": "ieee",
    }
    job = {
        "entry": "tilewright.gate.inside.execute:run",
        "device": "cpu",
        "gpu": gpu_figures(find_gpu("4090")),
        "needs_reference": False,
        "constructors": [base64.b64encode(cloudpickle.dumps(())).decode()],
        "probes": [probe],
        "budget_s": 20.0,
    }
    source = top + MODEL.replace("{body}", body or "pass")
    return run_job(
        job, packed, deadline_s=deadline_s, limits=limits, environment={"TRITON_INTERPRET": "1"},
        files={FILE: source}, readable=(),
    )  # fmt: skip


def processes_left() -> list[int]:
    """Processes of jobs of this test process that are still there."""
    return [pid for server in server_pids() for pid in descendants(server)]


def test_what_comes_back_is_data() -> None:
    result = run_candidate()
    assert result.outcome is Outcome.OK
    part = result.parts[0]
    assert part.name == "run 0 0"
    outputs = wire.unpack(part.data["outputs"], part.tensors)
    assert outputs[0].tolist() == [0.0, 2.0, 4.0, 6.0]


def test_an_exception_of_the_candidate_is_data_with_its_line() -> None:
    result = run_candidate(body="raise ValueError('no such shape')")
    assert result.outcome is Outcome.OK
    assert result.parts[0].data["error"] == {"text": "ValueError: no such shape", "line": 7, "memory": False}


def test_a_crash_is_named() -> None:
    result = run_candidate(body="import ctypes; ctypes.string_at(0)")
    assert result.outcome is Outcome.CRASH
    assert "SIGSEGV" in result.message


def test_leaving_without_a_word_is_a_crash() -> None:
    result = run_candidate(body="import os; os._exit(0)")
    assert result.outcome is Outcome.CRASH
    assert "without an answer" in result.message


def test_a_hang_ends_at_the_deadline() -> None:
    started = time.monotonic()
    result = run_candidate(body="while True: pass", deadline_s=5.0)
    assert result.outcome is Outcome.TIMEOUT
    assert time.monotonic() - started < 25.0
    assert processes_left() == []


def test_a_flood_of_output_is_kept_short() -> None:
    result = run_candidate(body="import os\n        for _ in range(300): os.write(1, b'garbage ' * 8192)")
    assert result.outcome is Outcome.OK
    assert len(result.stdout) < 1 << 17
    assert "bytes dropped" in result.stdout


def test_a_fork_bomb_is_stopped_and_gone() -> None:
    bomb = "import os\nwhile True:\n    os.fork()\n"
    result = run_candidate(top=bomb, limits=Limits(processes=24))
    assert result.outcome is Outcome.PROCESSES
    assert processes_left() == []


def test_a_process_that_leaves_its_session_is_gone_too() -> None:
    top = "import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(600)\n"
    result = run_candidate(top=top)
    assert result.outcome is Outcome.OK
    assert processes_left() == []


def test_memory_is_limited() -> None:
    result = run_candidate(body="torch.ones(1 << 33)", limits=Limits(memory_bytes=4 << 30))
    error = result.parts[0].data["error"]["text"] if result.parts else result.message
    assert "memory" in error


def test_results_that_are_not_data_are_garbage() -> None:
    top = "import pathlib\npathlib.Path('out/0.json').write_text('{\"name\": 3}')\nimport os\nos._exit(0)\n"
    assert run_candidate(top=top).outcome is Outcome.GARBAGE
    top = "import os\nos.symlink('/dev/zero', 'out/0.json')\nos._exit(0)\n"
    assert run_candidate(top=top).outcome is Outcome.GARBAGE


def test_no_secrets_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    body = "import os; raise ValueError(str(sorted(os.environ)))"
    text = run_candidate(body=body).parts[0].data["error"]["text"]
    assert "SECRET_TOKEN" not in text
    assert "HOME" in text
    left = run_candidate().notes
    if any("network" in note for note in left):
        pytest.skip(left[0])
    body = "import socket; socket.create_connection(('127.0.0.1', 22), timeout=2)"
    text = run_candidate(body=body).parts[0].data["error"]["text"]
    assert "unreachable" in text or "denied" in text
    body = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 22))"
    assert "unreachable" in run_candidate(body=body).parts[0].data["error"]["text"]


needs_landlock = pytest.mark.skipif(landlock.version() < 1, reason="this kernel has no Landlock")


@needs_landlock
def test_what_lies_outside_is_neither_read_nor_written(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    top = f"""
import os, subprocess

OUTSIDE = {str(tmp_path)!r}
ACTIONS = {{
    "create": lambda: open(f"{{OUTSIDE}}/new", "w"),
    "append": lambda: open(f"{{OUTSIDE}}/there", "a"),
    "remove": lambda: os.remove(f"{{OUTSIDE}}/there"),
    "move": lambda: os.rename(f"{{OUTSIDE}}/there", "mine"),
    "link": lambda: os.link(f"{{OUTSIDE}}/there", "mine"),
    "read": lambda: open(f"{{OUTSIDE}}/there").read(),
    "list": lambda: os.listdir(OUTSIDE),
    "shell": lambda: subprocess.run(["sh", "-c", f"echo x > {{OUTSIDE}}/new"], check=True, capture_output=True),
    "own": lambda: open("mine", "w"),
}}


def allowed():
    found = []
    for name, action in ACTIONS.items():
        try:
            action()
            found.append(name)
        except (OSError, subprocess.CalledProcessError):
            pass
    return found
"""
    text = run_candidate(top=top, body="raise ValueError(allowed())").parts[0].data["error"]["text"]
    assert text == "ValueError: ['own']"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "mine"


def test_a_script_above_the_temporary_folders_does_not_open_them(monkeypatch: pytest.MonkeyPatch) -> None:
    above = str(Path(tempfile.gettempdir()))
    monkeypatch.syspath_prepend(above)
    found = paths.allowed_paths(Path("scratch"), cuda=False, readable=(), writable=())
    assert not found or above not in found["read"]
    assert not found or sys.prefix in found["read"]


def test_what_the_system_cannot_forbid_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    result = run_candidate()
    assert result.outcome is Outcome.OK
    assert any("could not be forbidden" in note for note in result.notes)


def test_a_hang_that_does_nothing_ends_long_before_the_deadline() -> None:
    result = run_candidate(body="import time; time.sleep(600)", deadline_s=300.0, limits=Limits(idle_s=2.0))
    assert result.outcome is Outcome.TIMEOUT
    assert "nothing was done" in result.message
    assert result.seconds < 120.0


def test_a_hang_that_computes_ends_by_its_processor_time() -> None:
    limits = Limits(quiet_cpu_s=8.0)
    result = run_candidate(body="while True: pass", deadline_s=300.0, limits=limits)
    assert result.outcome is Outcome.TIMEOUT
    assert "processor time" in result.message


@pytest.mark.parametrize(
    "body",
    [
        "f = open('x', 'wb'); import os; os.unlink('x')\n        while True: f.write(bytes(1 << 24)); f.flush()",
        "[open(f'f-{n}', 'wb') .close() for n in range(10**6)]",
    ],
)
def test_a_disk_is_not_filled(body: str) -> None:
    limits = Limits(disk_bytes=1 << 28, files=5000)
    result = run_candidate(body=body, deadline_s=120.0, limits=limits)
    assert result.outcome is Outcome.FILES, result.message


def test_threads_are_counted() -> None:
    body = (
        "import threading, time\n"
        "        for _ in range(400): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "        time.sleep(60)"
    )
    result = run_candidate(body=body, deadline_s=120.0, limits=Limits(threads=300))
    assert result.outcome is Outcome.PROCESSES
    assert "threads" in result.message


def test_a_flood_of_parts_is_garbage() -> None:
    body = "n = 1\n        while True:\n            open(f'out/{n}.json', 'w').write('{}'); n += 1"
    result = run_candidate(body=body, deadline_s=120.0, limits=Limits(parts=200))
    assert result.outcome in {Outcome.GARBAGE, Outcome.FILES}


def test_a_job_is_not_there_to_be_read() -> None:
    result = run_candidate(body="open('job.json').read()")
    assert "FileNotFoundError" in result.parts[0].data["error"]["text"]


def test_trees_survive_the_way_through_the_wall(tmp_path: Path) -> None:
    tree = {"a": [torch.arange(6.0).reshape(2, 3).t(), (1, None, "x")], "b": torch.ones(2, 1).expand(2, 4)}
    tensors: dict[str, torch.Tensor] = {}
    packed = wire.pack(tree, tensors, "t")
    wire.save_tensors(tmp_path / "t.safetensors", tensors)
    back = wire.unpack(packed, wire.load_tensors(tmp_path / "t.safetensors"))
    assert torch.equal(back["a"][0], tree["a"][0])
    assert back["a"][0].stride() == tree["a"][0].stride()
    assert back["a"][1] == (1, None, "x")
    assert torch.equal(back["b"], tree["b"])


@pytest.mark.parametrize("tree", [{"$tensor": "nowhere"}, {"$what": 1}])
def test_a_tree_that_names_nothing_is_garbage(tree: object) -> None:
    with pytest.raises(wire.GarbageError):
        wire.unpack(tree, {})


def test_files_that_are_not_what_they_say_are_garbage(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1, 2")
    with pytest.raises(wire.GarbageError, match="not JSON"):
        wire.load_json(path)
    with pytest.raises(wire.GarbageError, match="bytes"):
        wire.load_json(path, limit_bytes=2)
    with pytest.raises(wire.GarbageError, match="not safetensors"):
        wire.load_tensors(path)
    with pytest.raises(wire.GarbageError, match="regular file"):
        wire.load_json(tmp_path)
