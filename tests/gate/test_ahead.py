"""Kernels of all probes are compiled ahead, in forked workers, into the candidate's own cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tilewright.gate.inside.runtime import FILE

ROOT = Path(__file__).resolve().parents[2]

CANDIDATE = """
import time

import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def scale_kernel(x_ptr, out_ptr, n, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + o, tl.load(x_ptr + o, mask=o < n) * SIZE, mask=o < n)


class ModelNew(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(factor))

    def forward(self, x):
        if x.shape[0] == 13:
            raise ValueError("not this one")
        if x.shape[0] == 17:
            time.sleep(60)
        out = torch.empty_like(x)
        scale_kernel[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), SIZE=x.shape[0], BLOCK=64)
        return out
"""

SCRIPT = """
import base64, json, os, sys
import cloudpickle, torch
from tilewright.gpu.table import find_gpu
from tilewright.sandbox import wire
from tilewright.gate.inside import ahead
from tilewright.gate.inside.runtime import gpu_figures

sizes = json.loads(sys.argv[1])
tensors = {}
probes = [
    {"index": i, "constructor": 0, "inputs": wire.pack([torch.zeros(n, 8)], tensors, f"p{n}")}
    for i, n in enumerate(sizes)
]
job = {
    "probes": probes,
    "constructors": [base64.b64encode(cloudpickle.dumps((3,))).decode()],
    "needs_reference": False,
    "ahead_s": float(sys.argv[2]),
    "installed": gpu_figures(find_gpu("4090")),
}
print(json.dumps(sorted(ahead.compile_for_probes(job, tensors))))
"""


def compiled(folder: Path, sizes: list[int], seconds: float = 60.0) -> tuple[int, list[int]]:
    """Kernels in the cache, and indices of the probes that took too long."""
    (folder / FILE).write_text(CANDIDATE)
    cache = folder / "cache"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "TRITON_CACHE_DIR": str(cache),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(sizes), str(seconds)]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120, capture_output=True, text=True)
    return len(list(cache.rglob("*.cubin"))), json.loads(done.stdout.splitlines()[-1])


def test_every_size_is_compiled_and_what_raises_is_left_out(tmp_path: Path) -> None:
    assert compiled(tmp_path, [3, 5, 13, 8]) == (3, [])


def test_what_takes_too_long_is_named(tmp_path: Path) -> None:
    assert compiled(tmp_path, [3, 17, 5], seconds=15.0) == (2, [1])
