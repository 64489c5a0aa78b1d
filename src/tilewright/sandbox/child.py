"""The process on the other side of the wall: takes a job from its scratch directory, runs it, reports parts.

Forked by `tilewright.sandbox.fork_server`. It is the trusted wrapper: it limits itself before anything of a
candidate's is loaded, and writes what comes back.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tilewright.sandbox.namespaces import code_of


def main(scratch: Path) -> int:
    """Run the job in `scratch`; exit code 0 where the entry returned."""
    if os.getpid() == 1:
        return _be_init(scratch)
    return _work(scratch)


def _be_init(scratch: Path) -> int:
    """First process of a namespace: signals without handlers do not reach it, so a second one does the work."""
    worker = os.fork()
    if worker == 0:
        code = 70
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            code = _work(scratch)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        pid, status = os.wait()
        if pid == worker:
            return code_of(status)


def _end_with_parent() -> None:
    """Standard input ends when the verifier does, however that was killed; a namespace ends with its first process."""
    while os.read(0, 1):
        pass
    os._exit(137)


def _work(scratch: Path) -> int:
    import json

    job = json.loads((scratch / "job.json").read_text())
    (scratch / "job.json").unlink()  # what is asked, and why, is nothing for a candidate to read
    _limit(job["limits"])
    _wall(job.pop("walls"))

    from tilewright.sandbox import wire

    count = 0

    def emit(name: str, data: Any, tensors: Mapping[str, Any] | None = None) -> None:
        nonlocal count
        if tensors:
            wire.save_tensors(scratch / "out" / f"{count}.safetensors", tensors)
        wire.save_json(scratch / "out" / f"{count}.json", {"name": name, "data": data})
        count += 1

    from tilewright.sandbox import disguise

    disguise.as_script(scratch)
    package, _, function = job["entry"].partition(":")
    if not package.startswith("tilewright."):
        raise ValueError(f"an entry lies in tilewright, not in {package}")
    try:
        getattr(import_module(package), function)(job, wire.load_tensors(scratch / "job.safetensors"), emit)
    except BaseException:
        traceback.print_exc()
        return 1
    wire.save_json(scratch / "out" / "done.json", {"parts": count})
    return 0


def _limit(limits: Mapping[str, Any]) -> None:
    """Lower this process's own limits, for good."""
    import resource

    def lower(kind: int, value: int) -> None:
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_CPU, int(limits["cpu_s"]))
    lower(resource.RLIMIT_FSIZE, int(limits["file_bytes"]))
    if not limits["cuda"]:
        # Private writable memory, not addresses: libraries reserve far more addresses than they use.
        lower(resource.RLIMIT_DATA, int(limits["memory_bytes"]))


def _wall(paths: Mapping[str, Any]) -> None:
    """Shut everything off but these paths, for good; nothing where the kernel cannot."""
    if paths:
        from tilewright.sandbox import landlock

        landlock.restrict(paths["read"], paths["write"])
