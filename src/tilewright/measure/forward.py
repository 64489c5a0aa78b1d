"""The process that is profiled: builds a module, warms it up, and runs one forward pass between profiler marks.

python -m tilewright.measure.forward time JOB     times, into the job's result
python -m tilewright.measure.forward count JOB    one pass between cudaProfilerStart and Stop, for `ncu`
"""

from __future__ import annotations

import base64
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from tilewright.gate.reference.subject import product_precision
from tilewright.measure.subjects import build_candidate
from tilewright.task.module_source import build_module, make_inputs
from tilewright.toolchain import triton_compat
from tilewright.values.precision import PrecisionClass

_WARM_UP = 3
_SAMPLES = 9


def main(mode: str, path: str) -> None:
    """The entry."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    with product_precision(PrecisionClass(job["precision"])), torch.no_grad():
        own: set[str] = set()
        _note_kernels(own)
        call = _call(job)
        for _ in range(_WARM_UP):
            call()
        torch.cuda.synchronize()
        if mode == "count":
            torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
            call()
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]
            return
        result = _timed(call) | {"own": sorted(own), "gpu": torch.cuda.get_device_name(), "versions": _versions()}
        Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


def _call(job: Mapping[str, Any]) -> Callable[[], Any]:
    source = cloudpickle.loads(base64.b64decode(job["source"]))
    reference = build_module(source, device="cuda").requires_grad_(False)
    given = job["candidate"]
    module = reference if given is None else build_candidate(given, reference, source, "cuda")
    inputs = make_inputs(source, device="cuda")
    return lambda: module(*inputs)


def _note_kernels(own: set[str]) -> None:
    """Remember the names of the Triton kernels that are launched."""
    jit = triton_compat.jit_function_type()
    plain = jit.run  # type: ignore[attr-defined]

    def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        own.add(triton_compat.kernel_name(kernel))
        return plain(kernel, *args, **kwargs)

    jit.run = run  # type: ignore[attr-defined]


def _timed(call: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds: of the whole (CUDA events), of the host until all is enqueued, and of each kernel in order."""
    wholes, hosts = [], []
    event: Any = torch.cuda.Event
    for _ in range(_SAMPLES):
        start, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize()
        began = time.perf_counter()
        start.record()
        call()
        end.record()
        hosts.append((time.perf_counter() - began) * 1e3)
        end.synchronize()
        wholes.append(float(start.elapsed_time(end)))
    kernels, notes = _kernels(call)
    return {
        "total_ms": statistics.median(wholes),
        "host_ms": statistics.median(hosts),
        "kernels": kernels,
        "notes": notes,
    }


def _kernels(call: Callable[[], Any]) -> tuple[dict[str, list[float]], list[str]]:
    """Kernel -> milliseconds of its launches, in the order of their first ones."""
    from torch.profiler import ProfilerActivity, profile

    from tilewright.measure.ncu import plain_name

    found: dict[str, list[float]] = {}
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
        for item in sorted(profiler.events() or [], key=lambda item: item.time_range.start):
            if str(item.device_type).endswith("CUDA") and "Memcpy" not in item.name:
                found.setdefault(plain_name(item.name), []).append(float(item.device_time) * 1e-3)
    except Exception as error:  # CUPTI may be taken or missing
        return {}, [f"times of single kernels could not be taken: {type(error).__name__}: {str(error)[:200]}"]
    return found, []


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "triton": version("triton"), "cuda": str(torch.version.cuda)}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
