"""A tool's process from the server's side: started, listened to, and ended, whatever happens to the call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from tilewright.errors import TilewrightError
from tilewright.sandbox.processes import end_tree

#: Told of progress: fraction of the whole from 0 to 1 where it is known, and what is being done.
Listener = Callable[[float | None, str], Awaitable[None]]

#: Names that a tool's process has no use for: credentials of a language model's server.
_WITHHELD = "OPENAI_"

#: Of a worker's stderr, shown where it died without a word.
_TAIL_BYTES = 2000


class JobError(TilewrightError):
    """A tool's job failed; the message is its own."""


async def run_job(tool: str, arguments: Mapping[str, Any], listener: Listener) -> Any:
    """Run a tool's job in a process of its own and return its JSON result.

    A cancelled call leaves nothing behind: the process, all that it started and its temporary files are gone
    when this returns.

    Raises:
        JobError: the input is at fault, or the process died.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-mcp-", ignore_cleanup_errors=True) as scratch:
        errors = Path(scratch) / "stderr"
        with errors.open("wb") as stderr:
            process = await anyio.open_process(
                [sys.executable, "-P", "-m", "tilewright.mcp.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(scratch),
                start_new_session=True,
            )
        try:
            return await _listen(process, {"tool": tool, "arguments": arguments}, listener, errors)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(end_tree, process.pid)
                await process.aclose()


async def _listen(process: anyio.abc.Process, job: Mapping[str, Any], listener: Listener, errors: Path) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.send(json.dumps(job).encode() + b"\n")
    async for line in _lines(process.stdout):
        said = json.loads(line)
        if "result" in said:
            return said["result"]
        if "error" in said:
            raise JobError(str(said["error"]))
        await listener(said["progress"]["fraction"], said["progress"]["message"])
    code = await process.wait()
    tail = errors.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
    raise JobError(f"the tool's process ended without a result (exit code {code})" + (f": {tail[-1]}" if tail else ""))


async def _lines(stream: anyio.abc.ByteReceiveStream) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for data in stream:
        rest += data
        while (end := rest.find(b"\n")) >= 0:
            yield bytes(rest[:end])
            del rest[: end + 1]


def _environment(scratch: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_WITHHELD)}
    package = str(Path(__file__).resolve().parents[2])
    return {**kept, "TMPDIR": scratch, "PYTHONPATH": os.pathsep.join([package, *filter(None, sys.path)])}
