"""Two times of a call: the GPU's, and what a user sees who calls again and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

#: Seconds of calls in one sample, and samples; the median is taken.
_SAMPLE_S, _SAMPLES = 0.03, 7
_FEWEST, _MOST = 3, 1000


def gpu_ms(call: Callable[[], Any]) -> float:
    """Milliseconds of the GPU: CUDA events, cold L2, the median (`triton.testing.do_bench`)."""
    import triton

    return float(triton.testing.do_bench(call, warmup=30, rep=120, return_mode="median"))


def call_ms(call: Callable[[], Any]) -> float:
    """Milliseconds of a call among calls made back to back, the GPU's work included: the longer of host and GPU."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    once = _timed(call, _FEWEST) / _FEWEST
    count = int(min(max(_SAMPLE_S / max(once, 1e-7), _FEWEST), _MOST))
    return statistics.median(_timed(call, count) / count for _ in range(_SAMPLES)) * 1e3


def host_us(call: Callable[[], Any]) -> float:
    """Microseconds until a call is enqueued; meaningful where the GPU keeps up."""
    samples = []
    for _ in range(_SAMPLES):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(20):
            call()
        samples.append((time.perf_counter() - started) / 20)
    torch.cuda.synchronize()
    return statistics.median(samples) * 1e6


def _timed(call: Callable[[], Any], count: int) -> float:
    """Seconds of so many calls, until the GPU is done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    return time.perf_counter() - started
