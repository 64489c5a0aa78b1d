"""The process that jobs are forked from: it has imported torch, Triton and the gate once, and runs no job itself.

Started by `tilewright.sandbox.forking`. It must stay without threads and without a CUDA context, since what it forks
could use neither; and it never loads anything of a candidate's.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tilewright.sandbox import child, namespaces
from tilewright.sandbox.processes import end_below

#: Largest request, and the descriptors that come with one: its stdin, stdout, stderr and where its end is reported.
REQUEST_BYTES, DESCRIPTORS = 1 << 17, 4
#: What every job uses; and what torch imports when an operation runs on tensors without data, or Triton on first use.
_FIRST = ("torch", "triton")
_WHILE_THE_FIRST_JOB_IS_WRITTEN = ("torch._dynamo", "triton.compiler.code_generator", "numpy.ctypeslib", "numpy.ma")
#: mallopt(3): fill freed memory with the byte that MALLOC_PERTURB_ names.
_M_PERTURB = -6


def serve(control: socket.socket) -> None:
    """Fork a job for each request on `control`, and report its end, until `control` is closed."""
    namespaces.adopt_orphans()
    permitted = namespaces.best()
    for name in _FIRST:
        import_module(name)

    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    control.send(json.dumps({"namespaces": sorted(permitted)}).encode())
    for name in _WHILE_THE_FIRST_JOB_IS_WRITTEN:
        import_module(name)

    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if control.fileno() in ready:
            message, given, _, _ = socket.recv_fds(control, REQUEST_BYTES, DESCRIPTORS)
            if not message:
                break
            request = json.loads(message)
            _import(request["entry"])
            pid = _fork(request, given, permitted, closing=(control.fileno(), woken, wake, *running.values()))
            running[pid] = given[3]
            for descriptor in given[:3]:
                os.close(descriptor)
            _report(given[3], {"pid": pid})
        if woken in ready:
            os.read(woken, 4096)
            _reap(running)
    end_below(os.getpid())


def _import(entry: str) -> None:
    """Import the module of a job's entry before the fork, once for all jobs to come."""
    name = entry.partition(":")[0]
    if name.startswith("tilewright.") and name not in sys.modules:
        with contextlib.suppress(Exception):  # the job finds the same error, and reports it
            import_module(name)
            gc.collect()
            gc.freeze()


def _fork(request: Mapping[str, Any], given: list[int], permitted: frozenset[str], closing: tuple[int, ...]) -> int:
    fresh = bool(request.get("fresh")) or cuda_is_initialised()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, descriptor in enumerate(given[:3]):
            os.dup2(descriptor, number)
        for descriptor in (*given, *closing):
            os.close(descriptor)
        _become(request)
        namespaces.adopt_orphans()
        scratch = Path(request["scratch"])
        code = namespaces.run_inside(permitted, lambda: _start_anew(scratch) if fresh else child.main(scratch))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _start_anew(scratch: Path) -> int:
    """Replace this process by one that imports everything itself: slow, and owes nothing to this one."""
    code = "import sys, pathlib; from tilewright.sandbox.child import main; sys.exit(main(pathlib.Path(sys.argv[1])))"
    os.execv(sys.executable, [sys.executable, "-P", "-c", code, str(scratch)])


def cuda_is_initialised() -> bool:
    """Whether a library has initialised CUDA in this process, which a forked process could not use."""
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:  # not even loaded
        return False
    count = ctypes.c_int()
    return bool(driver.cuDeviceGetCount(ctypes.byref(count)) == 0)  # CUDA_ERROR_NOT_INITIALIZED is 3


def _become(request: Mapping[str, Any]) -> None:
    """Take on a job's environment and folder, as if this process had been started with them."""
    os.chdir(request["scratch"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    if "MALLOC_PERTURB_" in os.environ:
        with contextlib.suppress(AttributeError, ValueError):  # a C library without it
            ctypes.CDLL(None).mallopt(_M_PERTURB, int(os.environ["MALLOC_PERTURB_"]))


def _reap(running: dict[int, int]) -> None:
    """Report each job that has ended, after all that it left behind has ended too."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid not in running:
            continue
        end_below(os.getpid(), spare=frozenset(running) - {pid})
        descriptor = running.pop(pid)
        _report(descriptor, {"exit": os.waitstatus_to_exitcode(status)})
        os.close(descriptor)


def _report(descriptor: int, value: Mapping[str, int]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, json.dumps(value).encode() + b"\n")
