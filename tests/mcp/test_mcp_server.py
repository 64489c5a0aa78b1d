"""The server as its clients see it, through the official client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from tests.cli.samples import DOCUMENT, MODEL
from tests.cli.test_commands import RIGHT
from tilewright import api
from tilewright.mcp import jobs
from tilewright.mcp.calls import Bench, looked_up_tool
from tilewright.mcp.folders import Folders, PathRefusedError, open_folders
from tilewright.mcp.server import McpError, build_server, serve
from tilewright.sandbox.processes import descendants, end_tree, is_alive

WRONG = RIGHT.replace("* 2.0", "* 2.5")
ALWAYS = {"inspect", "profile", "prompt", "verify", "optimize"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    for name, text in {"model.py": MODEL, "task.txt": DOCUMENT, "right.py": RIGHT, "wrong.py": WRONG}.items():
        (inside / name).write_text(text)
    (tmp_path / "outside.py").write_text(MODEL)
    (inside / "link.py").symlink_to(tmp_path / "outside.py")
    return inside


def with_client(folder: Path, use: Callable[[Client], Awaitable[None]], **extra: str) -> None:
    """Start `tilewright mcp` over stdio in `folder`, and use it with the official client."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **extra}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "tilewright", "mcp", str(folder)], env=environment, cwd=folder
    )

    async def main() -> None:
        with anyio.fail_after(280):
            async with Client(command) as client:
                await use(client)

    anyio.run(main)


def text_of(result: Any) -> str:
    return "".join(getattr(item, "text", "") for item in result.content)


def test_tools_are_listed_with_types_and_short_descriptions(folder: Path) -> None:
    async def use(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) >= ALWAYS
        for tool in tools.values():
            assert tool.description
            assert len(tool.description) < 400
            assert tool.output_schema
        verify = tools["verify"].input_schema
        assert verify["required"] == ["reference", "candidate"]
        assert all("description" in field for field in verify["properties"].values())
        assert set(tools["prompt"].input_schema["required"]) == {"path", "stage"}

    with_client(folder, use)


def test_looking_and_refusing(folder: Path) -> None:
    async def use(client: Client) -> None:
        seen = (await client.call_tool("inspect", {"path": "task.txt"})).structured_content
        assert seen is not None
        assert (seen["gpu"], seen["kernels"], seen["can_run"]) == ("rtx-4090", ["scale_kernel"], False)
        written = (await client.call_tool("prompt", {"path": "task.txt", "stage": "block_tiling"})).structured_content
        assert written is not None
        assert "## block_tiling" in written["document"]
        for path in ("../outside.py", "/etc/passwd", "link.py", str(folder.parent / "outside.py"), "a\0b"):
            refused = await client.call_tool("inspect", {"path": path, "gpu": "4090"})
            assert refused.is_error
            assert "outside the folders" in text_of(refused) or "is no path" in text_of(refused)
        toml = await client.call_tool("inspect", {"path": "model.py", "gpu": "../gpu.toml"})
        assert "outside the folders" in text_of(toml)
        out = await client.call_tool("optimize", {"path": "model.py", "gpu": "4090", "out": "../runs"})
        assert "outside the folders" in text_of(out)
        bad = await client.call_tool("inspect", {"path": "model.py", "gpu": "4091"})
        assert bad.is_error
        assert "4091" in text_of(bad)
        unknown = await client.call_tool("inspect", {"path": "model.py", "stage": "sideways"})
        assert unknown.is_error

    with_client(folder, use)


def test_verify_and_optimize_with_progress(folder: Path) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def use(client: Client) -> None:
        asked = {"reference": "model.py", "candidate": "wrong.py", "gpu": "4090"}
        rejected = (await client.call_tool("verify", asked, progress_callback=listen)).structured_content
        assert rejected is not None
        assert rejected["accepted"] is False
        assert any(reason["check"].startswith("correctness") for reason in rejected["reasons"])
        assert told
        told.clear()
        wanted = {"path": "model.py", "gpu": "4090", "effort": "none"}
        done = (await client.call_tool("optimize", wanted, progress_callback=listen)).structured_content
        assert done is not None
        assert done["verdict"]
        assert done["trials"]
        assert all(Path(path).is_file() for path in done["files"])
        assert folder / "runs" / "model" / "report.json" in {Path(path) for path in done["files"]}
        fractions = [fraction for fraction, _, _ in told]
        assert fractions == sorted(fractions)
        assert any("stage" in (message or "") for _, _, message in told)

    with_client(folder, use)


def test_diagnose_answers_with_causes_and_refuses_what_lies_outside(folder: Path) -> None:
    told: list[str | None] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async def use(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools["diagnose"].input_schema["required"] == ["path"]
        asked = {"path": "right.py", "reference": "model.py", "gpu": "4090"}
        answer = (await client.call_tool("diagnose", asked, progress_callback=listen)).structured_content
        assert answer is not None
        report = answer["result"]
        assert report["gpu"] == "RTX 4090"
        assert [part["name"] for part in report["parts"]] == ["addmm", "relu_double_kernel"]
        assert report["total_label"] == "modelled"
        for one in report["diagnoses"]:
            assert one["remedy"]
            assert one["evidence"][0]["source"]
        assert any("compiling" in (message or "") for message in told)
        (folder.parent / "profile.json").write_text("{}")
        refused = await client.call_tool("diagnose", {**asked, "ncu": "../profile.json"})
        assert refused.is_error
        assert "outside the folders" in text_of(refused)

    with_client(folder, use)


def test_study_lists_what_a_study_in_the_folders_holds(folder: Path) -> None:
    from tilewright.search.records import TrialRecord
    from tilewright.search.store import StudyStore

    store = StudyStore(folder / "study.sqlite")
    store.put_record(TrialRecord("k", "t" * 64, "toy", "h200", "d", "x = 1", "a trial", "", "{}", "{}", 1.0))
    store.close()

    async def use(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools["study"].input_schema["required"]) == {"action", "path"}
        answer = (await client.call_tool("study", {"action": "list", "path": "study.sqlite"})).structured_content
        assert answer is not None
        assert [(one["task"], one["trials"]) for one in answer["result"]["tasks"]] == [("toy", 1)]
        asked = {"action": "show", "path": "study.sqlite", "task": "toy"}
        shown = (await client.call_tool("study", asked)).structured_content
        assert shown is not None
        assert shown["result"]["trials"][0]["what"] == "a trial"
        refused = await client.call_tool("study", {"action": "list", "path": "../study.sqlite"})
        assert "outside the folders" in text_of(refused)

    with_client(folder, use)


def workers(folder: Path) -> set[int]:
    """Processes that serve this folder's calls."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environ = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"XDG_CACHE_HOME={folder / 'cache'}".encode() in environ.split(b"\0") and "mcp.worker" in command:
            found.add(int(entry.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_cancelled_call_leaves_nothing_running(folder: Path) -> None:
    async def use(client: Client) -> None:
        started = anyio.Event()

        async def listen(progress: float, total: float | None, message: str | None) -> None:
            if "stage" in (message or "") or "compiling" in (message or ""):
                started.set()

        async def call() -> None:
            wanted = {"path": "model.py", "gpu": "4090", "effort": "quick"}
            await client.call_tool("optimize", wanted, progress_callback=listen)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await started.wait()
            running = workers(folder)
            assert len(running) == 1
            started_by = jobs_of(running)
            group.cancel_scope.cancel()
        with anyio.fail_after(20):
            while workers(folder) or any(is_alive(pid) for pid in started_by):
                await anyio.sleep(0.1)
        assert (await client.call_tool("inspect", {"path": "task.txt"})).structured_content is not None

    with_client(folder, use)


def jobs_of(owners: set[int]) -> set[int]:
    """Sandboxed jobs that any of these processes started: what their fork servers forked."""
    return {job for owner in owners for server in descendants(owner) for job in descendants(server)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_job_ends_with_its_server(folder: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "tilewright.mcp.worker"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    asked = dict.fromkeys(("init", "inputs", "precision"))
    files = {"reference": "model.py", "candidate": "right.py", "gpu": "4090"}
    job = {"tool": "verify", "arguments": {**asked, **files, "strict": False, "effort": "quick"}}
    worker.stdin.write(json.dumps(job).encode() + b"\n")
    worker.stdin.flush()
    while not (jobs := jobs_of({worker.pid})):
        assert worker.poll() is None
        time.sleep(0.05)
    worker.stdin.close()  # as when the server is killed
    assert worker.wait(timeout=20) == 1
    stop = time.monotonic() + 20
    while any(is_alive(pid) for pid in jobs):  # killed by now; a busy machine takes them away later
        assert time.monotonic() < stop
        time.sleep(0.05)


def test_streamable_http_on_loopback(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tilewright", "mcp", str(folder), "--http", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        async def use() -> None:
            with anyio.fail_after(120):
                while True:
                    try:
                        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                        break
                    except OSError:
                        await anyio.sleep(0.2)
                async with Client(f"http://127.0.0.1:{port}/mcp") as client:
                    seen = (await client.call_tool("inspect", {"path": "task.txt"})).structured_content
                    assert seen is not None
                    assert seen["kernels"] == ["scale_kernel"]

        anyio.run(use)
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_a_tool_is_offered_where_its_function_exists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diagnose(
        path: str | Path, *, reference: str | Path | None = None, top: int = 3, progress: object = None
    ) -> dict[str, Any]:
        """Say what holds a kernel back.

        At length.
        """
        assert callable(progress)
        progress("looking")
        return {"path": path, "top": top, "causes": ("dram",)}

    server = build_server(open_folders([folder]))
    assert "diagnose" not in {tool.name for tool in server._tool_manager.list_tools()} or hasattr(api, "diagnose")
    monkeypatch.setattr(api, "diagnose", diagnose, raising=False)
    told: list[str] = []
    assert jobs.run("diagnose", {"path": "x.py"}, lambda fraction, message: told.append(message)) == {
        "path": "x.py",
        "top": 3,
        "causes": ["dram"],
    }
    assert told == ["looking"]
    called: list[Any] = []

    async def call(tool: str, arguments: Any, ctx: Any, paths: Any) -> Any:
        called.append((tool, dict(arguments), set(paths)))
        return {"cause": "dram"}

    offered = looked_up_tool(call, "diagnose")
    assert offered is not None
    monkeypatch.setattr(Bench, "call", lambda self, *rest: call(*rest))
    server = build_server(open_folders([folder]))

    async def use() -> None:
        async with Client(server) as client:
            (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == "diagnose"]
            assert tool.description == "Say what holds a kernel back."
            assert set(tool.input_schema["properties"]) == {"path", "reference", "top"}
            assert tool.input_schema["required"] == ["path"]
            answer = await client.call_tool("diagnose", {"path": "model.py", "top": 2})
            assert answer.structured_content == {"result": {"cause": "dram"}}

    anyio.run(use)
    assert called == [("diagnose", {"path": "model.py", "reference": None, "top": 2}, {"path", "reference"})]


def test_other_machines_only_where_that_was_said(tmp_path: Path) -> None:
    with pytest.raises(McpError, match="can be reached from other machines"):
        serve(open_folders([tmp_path]), http=True, host="0.0.0.0")


def test_folders_hold_paths_in(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    folders = Folders(((tmp_path / "a").resolve(),))
    assert folders.resolve("x/../y.py") == tmp_path / "a" / "y.py"
    for path in ("../ab/x.py", str(tmp_path / "ab"), "/etc/passwd", "\0"):
        with pytest.raises(PathRefusedError):
            folders.resolve(path)
    with pytest.raises(PathRefusedError, match="not a folder"):
        open_folders([tmp_path / "none"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_tree_is_ended_with_those_that_left_it() -> None:
    script = """
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans are its own, as a fork server's
sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(sleeper, start_new_session=True)
left = subprocess.run([sys.executable, "-c", "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', "
    "'import time; time.sleep(60)'], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
    "print(p.pid)"], capture_output=True, text=True)
print(child.pid, left.stdout.strip(), flush=True)
time.sleep(60)
"""
    root = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert root.stdout is not None
    pids = [int(word) for word in root.stdout.readline().split()]
    assert len(pids) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    end_tree(root.pid)
    assert root.wait(timeout=10) == -9
    for pid in pids:
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
