"""In a sandboxed process: runs some programs of each launch of a candidate and sends back what they access.

Entry `run`. Parts: `launch I` for each launch, then `end`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch

from tilewright.gate.inside import runtime
from tilewright.gate.inside.accesses import KINDS, MAX_DIMS, Memory, Sample, TracedLaunch, Tracer
from tilewright.gate.inside.execute import describe
from tilewright.gate.inside.pretend import pretend
from tilewright.gate.reference.subject import Subject, map_leaves
from tilewright.toolchain import triton_compat
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError
from tilewright.toolchain.memory import observed_memory

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module."""
    subject = Subject.of(cloudpickle.loads(base64.b64decode(job["source"])))
    reference = subject.build(subject.own_arguments) if job["needs_reference"] else None
    tracer = Tracer(Sample(**job["sample"]))
    error: dict[str, Any] = {}
    triton_compat.refine_interpreter()
    with runtime.interpreted_kernels(int(job["configuration"])), observed_memory(Memory([tracer])):
        try:
            _forward(subject, reference, str(job["device"]), job["gpu"])
        except (Exception, NotInterpretableError) as problem:
            error = describe(problem)
    for launch in tracer.launches():
        packed: dict[str, torch.Tensor] = {}
        emit(f"launch {launch.index}", _packed(launch, packed), packed)
    emit("end", {"error": error}, None)


def _forward(subject: Subject, reference: Any, device: str, gpu: Mapping[str, Any]) -> None:
    with pretend(gpu, "cpu", poisoned=False):
        module = runtime.load_candidate(Path.cwd())
        candidate = runtime.build_candidate(module, subject.own_arguments, reference)
    inputs = subject.inputs(0, device)
    if device == "meta":
        inputs = map_leaves(inputs, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"))
        candidate = candidate.to("meta")
    with pretend(gpu, device, poisoned=False), torch.no_grad():
        candidate(*inputs)


def _packed(launch: TracedLaunch, packed: dict[str, torch.Tensor]) -> dict[str, Any]:
    names = list(dict.fromkeys(access.argument for access in launch.accesses))
    rows = [
        (
            *access.program, access.order, KINDS.index(access.kind), names.index(access.argument),
            access.element_bytes, access.line, access.offsets.ndim,
            *access.offsets.shape, *(0,) * (MAX_DIMS - access.offsets.ndim),
        )
        for access in launch.accesses
    ]  # fmt: skip
    packed["table"] = torch.tensor(rows, dtype=torch.int64)
    packed["programs"] = torch.tensor(launch.programs, dtype=torch.int64)
    offsets = [access.offsets.reshape(-1) for access in launch.accesses] or [np.zeros(0, np.int64)]
    masks = [access.mask.reshape(-1) for access in launch.accesses] or [np.zeros(0, np.bool_)]
    packed["offsets"] = torch.from_numpy(np.concatenate(offsets))
    packed["mask"] = torch.from_numpy(np.concatenate(masks))
    return {
        "kernel": launch.kernel,
        "grid": launch.grid,
        "tensors": [asdict(tensor) for tensor in launch.tensors],
        "arguments": names,
        "complete": launch.complete,
    }
