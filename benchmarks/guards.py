"""What guards and packing in every call cost: emitted modules of two versions of Tilewright, on one GPU, in one run.

    python benchmarks/guards.py emit OUT            the five examples' candidates, by the version on PYTHONPATH
    python -m benchmarks.guards time BEFORE AFTER   GPU time and host time of a call of each, checked first

GPU time: `triton.testing.do_bench`, cold L2, medians, at the task's own size, of the fastest of the candidates emitted.
Host time: calls of a batch of 2, enqueued back to back, over their number.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = (
    "add_min_gelu_mul", "min_sum_gelu_bias", "mish_add_hardtanh_scale", "linear_batchnorm_gelu_relu",
    "multiply_global_mean",
)  # fmt: skip

#: Candidates of each that are timed, the most promising first.
_TIMED = 5
_CALLS = 200


def emit(folder: Path) -> None:
    """Write the first candidates of each example."""
    from tilewright.proposers.synthesize import synthesize
    from tilewright.task.load import load_task

    folder.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES:
        task = load_task(ROOT / "examples" / f"{name}.py", gpu="h200", precision="tf32")
        for number, candidate in enumerate(synthesize(task)[:_TIMED]):
            (folder / f"{name}_{number}.py").write_text(candidate.source)


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _host_us(call: Callable[[], Any]) -> float:
    """Median of the time that a call takes the host, enqueued back to back."""
    for _ in range(20):
        call()
    samples = []
    for _ in range(7):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(_CALLS):
            call()
        samples.append((time.perf_counter() - started) / _CALLS * 1e6)
        torch.cuda.synchronize()
    return statistics.median(samples)


def _error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


def _changed_alike(module: nn.Module, reference: nn.Module, x: torch.Tensor) -> float:
    """The error after parameters were written past their version counters."""
    for one in (module, reference):
        for value in one.state_dict().values():
            if value.is_floating_point():
                value.data.mul_(1.25)
    right = reference.double()(x.double())
    reference.float()
    return _error(module(x), right)


def time_example(name: str, folder: Path) -> dict[str, Any]:
    """The fastest candidate of an example: its times, and errors against float64."""
    import triton

    task = _import(ROOT / "examples" / f"{name}.py")
    torch.manual_seed(0)
    reference = task.Model(*task.get_init_inputs()).cuda().eval()
    x = task.get_inputs()[0].cuda()
    right = reference.double()(x.double())
    reference.float()
    found: dict[str, Any] = {}
    for path in sorted(folder.glob(f"{name}_*.py")):
        try:
            module = _import(path).ModelNew(*task.get_init_inputs()).cuda().eval()
            module.load_state_dict(reference.state_dict())
            error = _error(module(x), right)
            ms = float(triton.testing.do_bench(lambda: module(x), warmup=50, rep=150, return_mode="median"))  # noqa: B023
        except Exception as problem:
            found.setdefault("failed", []).append(f"{path.name}: {problem!r:.200}")
            continue
        if "gpu_ms" not in found or ms < found["gpu_ms"]:
            small = x[:2].contiguous()
            found |= {"candidate": path.name, "gpu_ms": ms, "error": error}
            found["host_us_batch_2"] = _host_us(lambda: module(small))  # noqa: B023
            found["guard_us"] = _guard_us(module, small)
            fresh = task.Model(*task.get_init_inputs()).cuda().eval()
            fresh.load_state_dict(module.state_dict())
            found["error_after_writes_past_versions"] = _changed_alike(module, fresh, x)
    eager = _host_us(lambda: reference(x[:2].contiguous()))
    return {**found, "eager_host_us_batch_2": eager}


def _guard_us(module: nn.Module, x: torch.Tensor) -> float:
    """Host time of the guard alone."""
    guard: Any = getattr(module, "_state_for_kernels", None) or getattr(module, "_kernels_apply")  # noqa: B009
    for _ in range(50):
        guard(x)
    started = time.perf_counter()
    for _ in range(5000):
        guard(x)
    return (time.perf_counter() - started) / 5000 * 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Emit, or time and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guards", description=__doc__)
    parser.add_argument("what", choices=("emit", "time"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.what == "emit":
        emit(options.folders[0])
        return 0
    from benchmarks.workloads import device, versions

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    with torch.no_grad():
        rows = {name: {folder.name: time_example(name, folder) for folder in options.folders} for name in EXAMPLES}
    gpu, driver = device()
    record = {
        "date": time.strftime("%Y-%m-%d"), "gpu": gpu, "driver": driver, "versions": versions(),
        "command": f"python -m benchmarks.guards time {' '.join(folder.name for folder in options.folders)}",
        "examples": rows,
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    if options.out is not None:
        options.out.write_text(f"{text}\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
