"""The parent's side of the fork server: start it, ask it for a job's process, and wait for that one's end."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tilewright.sandbox.namespaces import NETWORK
from tilewright.sandbox.processes import Tail

#: Variables that a process may be given after its start: all that read them do so late.
_LATE = ("HOME", "TMPDIR", "TRITON_CACHE_DIR", "MALLOC_PERTURB_")
#: Fork servers kept at a time: with and without Triton's interpreter, and for one more environment.
_KEPT = 3
#: Seconds in which torch and Triton must be imported, on a busy machine too.
_START_S = 300.0
#: Seconds in which a killed job must be gone.
_END_S = 20.0
_NOTE_BYTES = 4000
#: What a fork server runs, under the name of a script as people have one: a candidate can read its process's command.
_SCRIPT = "train.py"
_CODE = """import socket, sys
from tilewright.sandbox.fork_server import serve
serve(socket.socket(fileno=int(sys.argv[1])))
"""


class ForkServerError(RuntimeError):
    """No process could be started for a job."""


class ForkedProcess:
    """A job's first process, forked by a fork server.

    Attributes:
        pid: of it, which also names its session and process group.
        returncode: None until it has ended; -n where signal n ended it, -9 also where the fork server was lost.
    """

    def __init__(self, report: int, stdin: int, on_close: Callable[[], None]) -> None:
        self._report = report
        self._stdin = stdin
        self._on_close = on_close
        self._buffer = b""
        self.returncode: int | None = None
        self.pid = self._read("pid", _START_S)

    def poll(self) -> int | None:
        """The return code, where it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The return code, once it has ended and all that it started too.

        Raises:
            subprocess.TimeoutExpired: it has not ended after `timeout` seconds.
        """
        if self.returncode is None:
            try:
                self.returncode = self._read("exit", timeout)
            except ForkServerError:
                self.returncode = -9
        return self.returncode

    def end(self) -> None:
        """Kill it with all that it started, wait until nothing is left, and forget it."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(_END_S)
        for descriptor in (self._stdin, self._report):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._on_close()

    def _read(self, key: str, timeout: float) -> int:
        until = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = max(until - time.monotonic(), 0.0)
            if not select.select([self._report], [], [], left)[0]:
                raise subprocess.TimeoutExpired("job", timeout)
            chunk = os.read(self._report, 4096)
            if not chunk:
                raise ForkServerError("the process that starts jobs was lost")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return int(json.loads(line)[key])


class ForkServer:
    """A process that forks jobs, all with the variables that it was started with.

    Attributes:
        process: the server itself.
        jobs: how many of its jobs are running.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._folder = tempfile.mkdtemp(prefix="tmp")
        script = Path(self._folder) / _SCRIPT
        script.write_text(_CODE)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(script), str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._errors = Tail(self.process.stderr, _NOTE_BYTES)
        self._lock = threading.Lock()
        self._permitted: frozenset[str] | None = None
        self.jobs = 0

    def namespaces(self) -> frozenset[str]:
        """Kinds of namespaces that each job gets for itself.

        Raises:
            ForkServerError: it did not start.
        """
        with self._lock:
            if self._permitted is None:
                self._control.settimeout(_START_S)
                try:
                    message = self._control.recv(4096)
                except OSError:
                    message = b""
                if not message:
                    raise ForkServerError(f"the process that starts jobs did not start:\n{self._errors.text()}")
                self._permitted = frozenset(json.loads(message)["namespaces"])
        return self._permitted

    def fork(
        self,
        entry: str,
        scratch: Path,
        environment: Mapping[str, str],
        streams: tuple[int, int],
        *,
        fresh: bool = False,
    ) -> ForkedProcess:
        """Start a job in `scratch`, with `streams` as its stdout and stderr.

        A `fresh` job imports everything itself, in a process that keeps nothing of the server's; so do all jobs of a
        server in which a library has initialised CUDA.

        Raises:
            ForkServerError: the fork server is gone.
        """
        self.namespaces()
        stdin, keeps = os.pipe()
        report, theirs = os.pipe()
        request = {"entry": entry, "scratch": str(scratch), "environment": dict(environment), "fresh": fresh}
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], [stdin, *streams, theirs])
        except OSError as error:
            os.close(keeps)
            os.close(report)
            raise ForkServerError(f"the process that starts jobs was lost: {error}") from None
        finally:
            os.close(stdin)
            os.close(theirs)
        self._count(1)
        return ForkedProcess(report, keeps, lambda: self._count(-1))

    def _count(self, by: int) -> None:
        with self._lock:
            self.jobs += by

    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def close(self) -> None:
        """End it and its jobs."""
        self._control.close()
        try:
            self.process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


_lock = threading.Lock()
_servers: dict[tuple[int, tuple[tuple[str, str], ...]], ForkServer] = {}


def fork_server(environment: Mapping[str, str]) -> ForkServer:
    """A fork server for jobs with this environment: a new one, or one that is there. It starts up beside the caller."""
    early = {name: value for name, value in environment.items() if name not in _LATE}
    key = os.getpid(), tuple(sorted(early.items()))
    with _lock:
        found = _servers.pop(key, None)
        if found is None or not found.alive():
            if not _servers:
                atexit.register(close_all)
            # Whoever asks whether a GPU is there must not initialise CUDA for that.
            found = ForkServer({**early, "HOME": os.devnull, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"})
        _servers[key] = found  # the latest is last
        idle = [other for other, one in _servers.items() if other[0] == os.getpid() and other != key and not one.jobs]
        for oldest in idle[: max(len(_servers) - _KEPT, 0)]:
            _servers.pop(oldest).close()
    return found


def close_all() -> None:
    """End all fork servers of this process."""
    with _lock:
        for key in [key for key in _servers if key[0] == os.getpid()]:
            _servers.pop(key).close()


def servers() -> list[ForkServer]:
    """The fork servers of this process."""
    return [one for key, one in _servers.items() if key[0] == os.getpid()]


def server_pids() -> frozenset[int]:
    """The processes that jobs of this process are forked from."""
    return frozenset(one.process.pid for one in servers())


def notes(permitted: frozenset[str]) -> tuple[str, ...]:
    """What jobs with these namespaces lack, for people."""
    if NETWORK in permitted:
        return ()
    return ("the network could not be forbidden: this system offers no network namespaces",)
