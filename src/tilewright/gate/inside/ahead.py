"""In a candidate's process on a GPU: compile what its probes will launch, on all cores, before the GPU is touched.

Each size is a compilation of its own, and one after another they would take most of the gate's time. Forked workers
run the candidate on tensors without data and compile its launches into the candidate's own cache; what they miss is
compiled when it is launched. Nothing that they say is believed: they only leave compiled kernels behind, where the
candidate could have put them itself.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from tilewright.gate.inside import runtime
from tilewright.gate.reference.subject import map_leaves
from tilewright.sandbox import wire
from tilewright.sandbox.processes import available_cores

#: Workers at once.
_MOST_WORKERS = 24
#: What workers say, at most; a pipe holds as much.
_HEARD_BYTES = 1 << 16
#: Resident bytes of a worker (what it shares with the others counts for each), and what is left to the process itself.
_WORKER_BYTES, _SPARE_BYTES = 3 << 29, 6 << 30


def compile_for_probes(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> frozenset[int]:
    """Compile the launches of all probes; returns when every worker has ended, or was ended.

    Returns:
        Indices of the probes whose compilation was begun and did not end: launched now, they would be waited for again.

    Job fields: `probes`, most telling first, which are compiled in this order; `constructors`, `needs_reference`,
    `source`; `installed`, the figures of the GPU here; `ahead_s`, wall seconds after which workers are ended.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return frozenset()  # a forked CUDA context is of no use
    probes = [probe for probe in job["probes"] if not probe.get("large") or probe.get("own")]
    room = int(job.get("limits", {}).get("memory_bytes", 0))
    fit = (room - _SPARE_BYTES) // _WORKER_BYTES if room else _MOST_WORKERS
    count = max(1, min(_MOST_WORKERS, available_cores(), len(probes), fit))
    workers = []
    words: list[str] = []
    read, write = os.pipe()
    for first in range(count):
        worker = os.fork()
        if worker == 0:
            with contextlib.suppress(BaseException):
                _compile_share(job, tensors, probes[first::count], lambda said: os.write(write, said.encode()))
            os._exit(0)
        workers.append(worker)
    os.close(write)
    _wait(workers, float(job["ahead_s"]))
    os.set_blocking(read, False)  # what a worker left behind may hold the other end open
    with contextlib.suppress(BlockingIOError):
        words = os.read(read, _HEARD_BYTES).decode().split()
    os.close(read)
    # Each probe's index is said when it is begun, and again when it is done.
    return frozenset(int(word) for word, times in Counter(words).items() if times == 1)


def _wait(workers: Sequence[int], patience_s: float) -> None:
    import signal

    left = set(workers)
    stop = time.monotonic() + patience_s
    while left:
        for worker in list(left):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(worker, os.WNOHANG)[0] == 0:
                    continue
            left.discard(worker)
        if time.monotonic() > stop:
            for worker in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            stop = float("inf")
        time.sleep(0.02)


def _compile_share(
    job: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    probes: Sequence[Mapping[str, Any]],
    say: Callable[[str], object],
) -> None:
    """One worker: its probes' launches, compiled; `say` hears of each that is begun and done."""
    from tilewright.gate.inside.pretend import pretend
    from tilewright.gate.inside.recorder import Recorder
    from tilewright.toolchain import triton_compat

    compiled: set[str] = set()
    with pretend(job["installed"], "cpu", poisoned=False):
        module = runtime.load_candidate(Path.cwd())
    for probe in probes:
        say(f"{probe['index']} ")
        recorder = Recorder()
        with contextlib.suppress(Exception):
            candidate = _candidate(job, module, int(probe["constructor"]))
            inputs = map_leaves(wire.unpack(probe["inputs"], tensors), _shape_alone)
            with pretend(job["installed"], "meta", poisoned=False), recorder.watching(), torch.no_grad():
                candidate(*inputs)
        with pretend(job["installed"], "meta"):
            for key, (kernel, args, kwargs) in recorder.distinct.items():
                if key not in compiled:
                    compiled.add(key)
                    with contextlib.suppress(Exception):
                        triton_compat.compile_launch(kernel, args, kwargs)
        say(f"{probe['index']} ")


def _shape_alone(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _candidate(job: Mapping[str, Any], module: Any, constructor: int) -> torch.nn.Module:
    from tilewright.gate.inside.pretend import pretend
    from tilewright.task import module_source

    arguments = cloudpickle.loads(base64.b64decode(job["constructors"][constructor]))
    reference = None
    if job["needs_reference"]:
        source = cloudpickle.loads(base64.b64decode(job["source"]))
        given = None if source.pickled is not None else arguments
        reference = module_source.build_module(source, init_args=given).eval().requires_grad_(False)
    with pretend(job["installed"], "cpu", poisoned=False):
        made = runtime.build_candidate(module, arguments, reference)
    return made.to("meta")
