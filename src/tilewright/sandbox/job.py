"""Run a job in another process with limits and a deadline; what comes back is data.

The parent writes the job (JSON, safetensors) into a scratch directory of its own, has a process forked for it from one
that has torch and Triton imported (`fork_server`), and reads parts (JSON, safetensors) back as they are completed. The
child has its own session and, where the system permits, its own process and network namespaces, and a wall around its
files (Landlock); a stripped environment; limits on memory, time, files and processes. Whatever it does, `run_job`
returns.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tilewright.sandbox import forking, wire
from tilewright.sandbox.forking import ForkServerError, fork_server
from tilewright.sandbox.limits import Limits as Limits
from tilewright.sandbox.limits import Outcome as Outcome
from tilewright.sandbox.paths import allowed_paths, missing
from tilewright.sandbox.processes import Tail, available_cores
from tilewright.sandbox.supervise import Supervisor

#: Name patterns of the environment that a child may see; the rest (tokens, keys, proxies) stays outside.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "SYSTEMROOT")
#: Variables of a job's own environment that name folders for it to write.
_FOLDERS = ("TRITON_CACHE_DIR",)
_ENVIRONMENT_PREFIXES = ("CUDA_VISIBLE", "NVIDIA_VISIBLE", "NVIDIA_DRIVER")


@dataclass(frozen=True)
class Part:
    """One thing that a job reported, complete: its name, JSON and tensors."""

    name: str
    data: Any
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class JobResult:
    """How a job ended and what it reported until then.

    Attributes:
        outcome: how it ended.
        message: for people; empty where it ended well.
        parts: completed parts, in order.
        exit_code: of the process; negative for a signal, None where it was killed by us.
        stdout, stderr: the last of what it wrote.
        seconds: wall time.
        notes: protections that this system does not offer.
    """

    outcome: Outcome
    message: str
    parts: tuple[Part, ...]
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    notes: tuple[str, ...]

    def part(self, name: str) -> Part | None:
        """The part of that name, if it came."""
        return next((part for part in self.parts if part.name == name), None)


def run_job(
    job: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor] | None = None,
    *,
    deadline_s: float,
    limits: Limits | None = None,
    environment: Mapping[str, str] | None = None,
    files: Mapping[str, str | bytes] | None = None,
    on_part: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
    readable: Sequence[Path] | None = None,
    writable: Sequence[Path] = (),
) -> JobResult:
    """Run `job["entry"]` (`tilewright.package.module:function`) in a sandboxed process.

    The entry is called as `entry(job, tensors, emit)`; `emit(name, data, tensors)` sends one part back.

    Args:
        job: JSON values; `entry` names the function, the rest is for it.
        tensors: sent along, by name.
        deadline_s: wall seconds, after which the whole process tree is killed.
        limits: of the job.
        environment: variables to set in the child.
        files: text or bytes to put into the scratch directory, by plain file name.
        on_part: called with the name of each part as it is completed.
        stop: asked every now and then; the job is killed as after its deadline when it says so.
        readable: paths that it may read beside the system's own, Python's and its scratch directory; None for all.
        writable: folders that it may write beside its scratch directory; they are made where they are missing. The
            folder that `environment` names as Triton's cache is one of them.

    Returns:
        the outcome; this function does not raise for anything that the job does.
    """
    limits = limits or Limits()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tmp", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        shared = [*writable, *(Path(environment[name]) for name in _FOLDERS if environment and name in environment)]
        for path in shared:
            path.mkdir(parents=True, exist_ok=True)
        inside = allowed_paths(scratch, cuda=limits.cuda, readable=readable, writable=shared)
        _write_job(scratch, {**job, "limits": asdict(limits), "walls": inside}, tensors or {}, files or {})
        own = _child_environment(scratch, environment or {})
        try:
            ended = _supervised(str(job["entry"]), scratch, own, deadline_s, limits, on_part, stop)
        except ForkServerError as error:
            return JobResult(Outcome.CRASH, str(error), (), None, "", "", time.monotonic() - started, ())
        parts, garbage = _read_parts(scratch, limits)
        outcome, message = ended.outcome, ended.message
        if outcome is Outcome.OK:
            outcome, message = _how_it_ended(scratch, ended.exit_code, garbage, ended.stderr)
        return JobResult(
            outcome, message, parts, ended.exit_code, ended.stdout, ended.stderr, time.monotonic() - started,
            (*ended.notes, *missing()),
        )  # fmt: skip


@dataclass(frozen=True)
class _Ended:
    """How a job's processes ended, as seen from outside; the fields are those of `JobResult`."""

    outcome: Outcome
    message: str
    exit_code: int | None
    stdout: str
    stderr: str
    notes: tuple[str, ...]


def _supervised(
    entry: str,
    scratch: Path,
    environment: Mapping[str, str],
    deadline_s: float,
    limits: Limits,
    on_part: Callable[[str], None] | None,
    stop: Callable[[], bool] | None,
) -> _Ended:
    """Start a job's process and watch it until nothing of it is left."""
    server = fork_server(environment)
    notes = forking.notes(server.namespaces())
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    streams = Tail(os.fdopen(out, "rb"), limits.output_bytes), Tail(os.fdopen(err, "rb"), limits.output_bytes)
    try:
        process = server.fork(entry, scratch, environment, (out_end, err_end))
    finally:
        os.close(out_end)
        os.close(err_end)
    try:
        deadline = time.monotonic() + deadline_s
        outcome, message = Supervisor(process, scratch, deadline, limits, on_part, stop).wait()
        exit_code = process.poll()
    finally:
        process.end()
    return _Ended(outcome, message, exit_code, streams[0].text(), streams[1].text(), notes)


def _write_job(
    scratch: Path, job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], files: Mapping[str, str | bytes]
) -> None:
    for name in ("out", "tmp", "home"):
        (scratch / name).mkdir()
    for name, content in files.items():
        (scratch / name).write_bytes(content.encode() if isinstance(content, str) else content)
    wire.save_tensors(scratch / "job.safetensors", tensors)
    wire.save_json(scratch / "job.json", job)


def _child_environment(scratch: Path, extra: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    package_root = str(Path(__file__).resolve().parents[2])
    kept |= {
        "HOME": str(scratch / "home"),
        "TMPDIR": str(scratch / "tmp"),
        "TRITON_CACHE_DIR": str(scratch / "tmp" / "triton"),
        "PYTHONPATH": os.pathsep.join([package_root, *filter(None, sys.path)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        # Jobs run side by side: threads that spin at each other's barriers would take most of the time.
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",  # the interpreter's products are small
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(available_cores() // 2, 1)),
    }
    return kept | dict(extra)


def _read_parts(scratch: Path, limits: Limits) -> tuple[tuple[Part, ...], str]:
    """All complete parts, and what was wrong with the first that could not be read."""
    parts: list[Part] = []
    while (path := scratch / "out" / f"{len(parts)}.json").exists():
        try:
            head = wire.load_json(path)
            if not isinstance(head, dict) or not isinstance(head.get("name"), str) or "data" not in head:
                raise wire.GarbageError(f"{path.name} is not a part")
            beside = path.with_suffix(".safetensors")
            tensors = wire.load_tensors(beside, limits.result_bytes) if beside.exists() else {}
        except wire.GarbageError as error:
            return tuple(parts), str(error)
        # The tensors stay mapped when the file is unlinked, and nobody is left who could write to it.
        parts.append(Part(head["name"], head["data"], tensors))
    return tuple(parts), ""


def _how_it_ended(scratch: Path, exit_code: int | None, garbage: str, stderr: str) -> tuple[Outcome, str]:
    if garbage:
        return Outcome.GARBAGE, f"what came back cannot be read: {garbage}"
    if exit_code == 0 and (scratch / "out" / "done.json").exists():
        return Outcome.OK, ""
    if "MemoryError" in stderr or "not enough memory" in stderr or "CUDA out of memory" in stderr:
        return Outcome.MEMORY, "it ran out of memory"
    if exit_code is None:
        return Outcome.CRASH, "its process was lost"
    signal_number = -exit_code if exit_code < 0 else exit_code - 128
    if 0 < signal_number < 65:
        return Outcome.CRASH, f"its process was killed by signal {signal_number} ({_signal_name(signal_number)})"
    last = next((line for line in reversed(stderr.strip().splitlines()) if line.strip()), "")
    tail = f": {last[:300]}" if last else ""
    return Outcome.CRASH, f"its process ended without an answer (exit code {exit_code}){tail}"


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
