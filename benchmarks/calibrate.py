"""Measure what the model's constants come from, on the GPU of this machine.

    python -m benchmarks.calibrate --out FILE      on a GPU: the raw points, as JSON
    python -m benchmarks.calibrate --read FILE     anywhere: the constants that follow from recorded points
    python -m benchmarks.calibrate --profiled      the kernels whose occupancy is read under `ncu`

The points know nothing of the kernels that the model is checked with. `benchmarks/results` holds a recorded run;
`tilewright/measure/calibration.py` holds the constants, and a test holds them against the record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks import calibration_kernels as kernels

MIB = 1 << 20
Point = dict[str, Any]


def elapsed_ms(call: Callable[[], Any], repeats: int = 5) -> float:
    """Median milliseconds of a call, after one to warm up."""
    call()
    samples = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end))
    return statistics.median(samples)


def _floats(count: int) -> torch.Tensor:
    return torch.rand(count, device="cuda")


def streams() -> list[Point]:
    """Long copies, reads and writes: bandwidth of the device memory."""
    count = 512 * MIB
    x, out = _floats(count), torch.empty(count, device="cuda")
    points = []
    for block, warps in ((1024, 4), (2048, 8), (512, 1), (4096, 4)):
        grid = (triton.cdiv(count, block),)
        ms = elapsed_ms(
            lambda grid=grid, block=block, warps=warps: kernels.copy_kernel[grid](x, out, count, block, num_warps=warps)
        )
        points.append({"kind": "copy", "block": block, "warps": warps, "bytes": 8 * count, "ms": ms})
        ms = elapsed_ms(
            lambda grid=grid, block=block, warps=warps: kernels.fill_kernel[grid](out, count, block, num_warps=warps)
        )
        points.append({"kind": "fill", "block": block, "warps": warps, "bytes": 4 * count, "ms": ms})
    for block, warps in ((1024, 4), (4096, 4)):
        per = 16 * block
        grid = (count // per,)
        ms = elapsed_ms(
            lambda grid=grid, per=per, block=block, warps=warps: kernels.read_kernel[grid](
                x, out, per, 1, count, block, "", num_warps=warps
            )
        )
        points.append({"kind": "read", "block": block, "warps": warps, "bytes": 4 * count, "ms": ms})
    return points


def few_programs(sm_count: int) -> list[Point]:
    """Reads by few programs, from device memory and from L2: what latency and one multiprocessor's port allow."""
    count = 256 * MIB
    x, out = _floats(count), torch.empty(1 << 16, device="cuda")
    points = []
    for region, passes, place in ((count, 1, "dram"), (4 * MIB, 1, "l2")):
        for programs in (1, 8, 32, sm_count, 4 * sm_count):
            for block, warps in ((128, 4), (512, 4), (2048, 4), (8192, 4), (8192, 16)):
                per = max(block * 8, (32 * MIB if programs > 8 else 4 * MIB) // programs // 8192 * 8192)
                per = min(per, region)
                runs = max(1, 4 * MIB // per) if place == "l2" else passes
                ms = elapsed_ms(
                    lambda programs=programs, per=per, runs=runs, region=region, block=block, warps=warps: (
                        kernels.read_kernel[(programs,)](
                            x, out, per, runs, region, block, ".cg" if region < count else "", num_warps=warps
                        )
                    ),
                    3,
                )
                points.append(
                    {"kind": f"few {place}", "programs": programs, "block": block, "warps": warps}
                    | {"per_program": per, "passes": runs, "bytes": 4 * per * runs * programs, "ms": ms}
                )
    return points


def cache_sizes(sm_count: int) -> list[Point]:
    """Reads of regions of growing size, again and again, by all multiprocessors: bandwidth and size of L2 and L1."""
    x, out = _floats(128 * MIB), torch.empty(1 << 16, device="cuda")
    points = []
    for mib in (4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 256):
        region = mib * MIB // 4
        per, block = 8192, 2048
        programs = region // per * max(1, 512 // mib)
        ms = elapsed_ms(
            lambda programs=programs, per=per, region=region, block=block: kernels.read_kernel[(programs,)](
                x, out, per, 1, region, block, ".cg", num_warps=4
            ),
            3,
        )
        points.append({"kind": "l2 size", "mib": mib, "bytes": 4 * per * programs, "ms": ms})
    for kib in (8, 16, 32, 64, 96, 128, 160, 192, 224, 256, 384):
        per, passes = kib * 256, 4096 // kib
        programs = sm_count
        ms = elapsed_ms(
            lambda programs=programs, per=per, passes=passes: kernels.read_kernel[(programs,)](
                x, out, per, passes, programs * per, 2048, "", num_warps=16
            ),
            3,
        )
        points.append({"kind": "l1 size", "kib": kib, "bytes": 4 * per * passes * programs, "ms": ms})
    return points


def latencies() -> list[Point]:
    """Chains of pointers through regions that lie in L1, L2, and device memory."""
    points = []
    out = torch.empty(1, dtype=torch.int32, device="cuda")
    for kib in (16, 64, 2048, 8192, 32768, 1 << 20):
        slots = kib * 8  # one of 128 bytes
        order = torch.randperm(slots, device="cuda", dtype=torch.int32)
        chain = torch.zeros(slots * 32, dtype=torch.int32, device="cuda")
        chain[order.long() * 32] = order.roll(-1) * 32
        hops = 20000
        long, short = (
            elapsed_ms(lambda chain=chain, count=count: kernels.chase_kernel[(1,)](chain, out, count, num_warps=1), 3)
            for count in (2 * hops, hops)
        )
        points.append({"kind": "latency", "kib": kib, "ns": (long - short) / hops * 1e6})
    return points


def cold_latency() -> list[Point]:
    """Chains of pointers through memory that nothing has touched since the cache was overwritten."""
    slots, hops = 1 << 24, 4000
    out, flush = torch.empty(1, dtype=torch.int32, device="cuda"), torch.empty(64 * MIB, device="cuda")
    chain = torch.zeros(slots * 32, dtype=torch.int32, device="cuda")
    order = torch.randperm(slots, device="cuda")[: 2 * hops + 1]
    chain[order[:-1] * 32] = (order[1:] * 32).int()
    chain[0] = (order[0] * 32).int()

    def cold(count: int) -> float:
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        kernels.chase_kernel[(1,)](chain, out, count, num_warps=1)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    cold(hops)
    long, short = (statistics.median(cold(count) for _ in range(5)) for count in (2 * hops, hops))
    return [{"kind": "cold latency", "ns": (long - short) / hops * 1e6}]


def short_runs() -> list[Point]:
    """Reads in short contiguous runs, rows of 16 KiB apart: what of the bandwidth remains."""
    row, points = 4096, []
    x, out = _floats(65536 * row), torch.empty(1 << 20, device="cuda")
    for run in (8, 16, 32, 64, 128, 512):
        height = max(4, 2048 // run)
        for warps in (4, 8):
            rows = 8 * height
            programs = 65536 // rows * (row // run)
            ms = elapsed_ms(
                lambda run=run, rows=rows, programs=programs, warps=warps, height=height: kernels.runs_kernel[
                    (programs,)
                ](x, out, rows, height, run, row, "", num_warps=warps),
                3,
            )
            points.append(
                {"kind": "down", "run": run, "height": height, "warps": warps, "bytes": 4 * x.numel(), "ms": ms}
            )
            ms = elapsed_ms(
                lambda run=run, warps=warps, height=height: kernels.walk_kernel[(65536 // height,)](
                    x, out, row, height, run, row, num_warps=warps
                ),
                3,
            )
            points.append(
                {"kind": "along", "run": run, "height": height, "warps": warps, "bytes": 4 * x.numel(), "ms": ms}
            )
    return points


def scattered() -> list[Point]:
    """Reads that touch so many lines with each request, out of a matrix that lies in L2."""
    row, points = 4096, []
    x, out = _floats(1024 * row), torch.empty(1 << 20, device="cuda")
    for run in (1, 2, 4, 8, 32):
        strips = max(1, run // 4)
        rows = 1024 // strips
        height, programs = min(1024 // run, rows), strips * row // run
        for cache in ("", ".cg"):
            ms = elapsed_ms(
                lambda run=run, rows=rows, height=height, programs=programs, cache=cache: kernels.runs_kernel[
                    (programs,)
                ](x, out, rows, height, run, row, cache, num_warps=4)
            )
            points.append(
                {"kind": f"scattered{cache}", "run": run, "height": height, "rows": rows, "programs": programs}
                | {"asked": 4 * rows * run * programs, "ms": ms}
            )
    return points


def launches() -> list[Point]:
    """Empty kernels: one after the other in a graph, and with many programs."""
    out = torch.empty(1, device="cuda")
    points: list[Point] = []
    for warps in (1, 4, 8, 16):
        for programs in (1 << 16, 1 << 20):
            ms = elapsed_ms(
                lambda programs=programs, warps=warps: kernels.empty_kernel[(programs,)](out, num_warps=warps)
            )
            points.append({"kind": "programs", "programs": programs, "warps": warps, "ms": ms})
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(200):
            kernels.empty_kernel[(132,)](out, num_warps=4)
    points.append({"kind": "launch", "ms": elapsed_ms(graph.replay) / 200})
    return points


def mixtures() -> list[Point]:
    """A copy with growing arithmetic: how limits combine."""
    count = 128 * MIB
    x, out = _floats(count), torch.empty(count, device="cuda")
    points = []
    for block, warps in ((1024, 4), (4096, 8)):
        grid = (count // block,)
        steps = [(n, 0) for n in (0, 16, 32, 64, 96, 128, 192, 256, 384)] + [(0, n) for n in (4, 8, 12, 16, 24, 32, 48)]
        for multiplies, powers in steps:
            ms = elapsed_ms(
                lambda multiplies=multiplies, powers=powers, grid=grid, block=block, warps=warps: kernels.mixed_kernel[
                    grid
                ](x, out, count, block, multiplies, powers, num_warps=warps),
                3,
            )
            points.append(
                {"kind": "mixture", "block": block, "warps": warps, "multiplies": multiplies, "powers": powers}
                | {"bytes": 8 * count, "elements": count, "ms": ms}
            )
    return points


def arithmetic(sm_count: int) -> list[Point]:
    """Instructions a clock: multiply-adds, special functions, integers; the first tells the clock."""
    out = torch.empty(1 << 14, device="cuda")
    points = []
    for kind in ("fma", "exp2", "integer"):
        for programs, block, warps in (
            (1, 32, 1),
            (2 * sm_count, 4096, 8),
            (sm_count, 512, 4),
            (8 * sm_count, 1024, 8),
        ):
            rounds = 20000 if programs == 1 else 4000
            ms = elapsed_ms(
                lambda kind=kind, programs=programs, block=block, warps=warps, rounds=rounds: kernels.compute_kernel[
                    (programs,)
                ](out, rounds, block, kind, num_warps=warps),
                3,
            )
            steps = 16 * rounds * block * programs
            points.append(
                {
                    "kind": f"arithmetic {kind}",
                    "programs": programs,
                    "block": block,
                    "warps": warps,
                    "steps": steps,
                    "ms": ms,
                }
            )
    return points


def products(sm_count: int) -> list[Point]:
    """Tensor cores fed from shared memory."""
    points = []
    rounds = 4096
    for dtype, precision in ((torch.float16, "tf32"), (torch.float32, "tf32")):
        for m, n, k, warps in (
            (32, 32, 32, 2),
            (64, 64, 32, 4),
            (128, 64, 32, 4),
            (128, 128, 32, 4),
            (128, 128, 64, 8),
            (128, 256, 32, 8),
        ):
            a, b = torch.rand(m, k, device="cuda", dtype=dtype), torch.rand(k, n, device="cuda", dtype=dtype)
            out = torch.empty(m, n, device="cuda")
            for each in (1, 4):
                programs = each * sm_count
                ms = elapsed_ms(
                    lambda m=m, n=n, k=k, warps=warps, a=a, b=b, out=out, precision=precision, programs=programs: (
                        kernels.product_kernel[(programs,)](a, b, out, rounds, m, n, k, precision, num_warps=warps)
                    ),
                    3,
                )
                points.append(
                    {"kind": "product", "type": str(dtype), "tile": [m, n, k], "warps": warps, "programs": programs}
                    | {"operations": 2 * m * n * k * rounds * programs, "ms": ms}
                )
    return points


def profiled(sm_count: int) -> None:
    """Kernels to run under `ncu`, in a fixed order: copies by 1 to 16 warps, with and without arithmetic."""
    count = 64 * MIB
    x, out = _floats(count), torch.empty(count, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    for warps in (1, 2, 4, 8, 16):
        for each in (4, 8):
            block = warps * 32 * each
            kernels.copy_kernel[(count // block,)](x, out, count, block, num_warps=warps)
            kernels.mixed_kernel[(count // block,)](x, out, count, block, 64, 0, num_warps=warps)
    for warps in (4, 8):
        kernels.read_kernel[(count // 65536,)](x, out, 65536, 1, count, warps * 128, "", num_warps=warps)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def measure(only: Sequence[str] = ()) -> dict[str, Any]:
    """All points (or those of the groups named), with the GPU's name and versions."""
    properties = torch.cuda.get_device_properties(0)
    sm_count = properties.multi_processor_count
    groups: dict[str, Callable[[], list[Point]]] = {
        "streams": streams,
        "few_programs": lambda: few_programs(sm_count),
        "cache_sizes": lambda: cache_sizes(sm_count),
        "latencies": latencies,
        "cold_latency": cold_latency,
        "short_runs": short_runs,
        "scattered": scattered,
        "launches": launches,
        "mixtures": mixtures,
        "arithmetic": lambda: arithmetic(sm_count),
        "products": lambda: products(sm_count),
    }
    points: list[Point] = []
    for name, group in groups.items():
        if only and name not in only:
            continue
        try:
            points += group()
        except Exception as error:
            points.append({"kind": "failure", "why": f"{type(error).__name__}: {str(error)[:300]}"})
        torch.cuda.empty_cache()
    return {
        "gpu": properties.name,
        "sm_count": sm_count,
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "points": points,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="measure, and write the points here")
    parser.add_argument("--only", nargs="*", default=(), metavar="GROUP", help="measure these groups alone")
    parser.add_argument("--profiled", action="store_true", help="run the kernels that are read under ncu")
    options = parser.parse_args(arguments)
    if options.profiled:
        profiled(torch.cuda.get_device_properties(0).multi_processor_count)
    elif options.out is not None:
        record = measure(options.only)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{len(record['points'])} points on {record['gpu']}")
    else:
        parser.error("one of --out, --profiled is needed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
