"""The address trace of a candidate: what each of its launches loads and stores, from a sandboxed interpreter run."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch

from tilewright.gate.inside.accesses import KINDS, Access, Sample, TracedLaunch, TracedTensor
from tilewright.gate.inside.runtime import FILE, gpu_figures
from tilewright.gpu.gpu import Gpu
from tilewright.sandbox.job import JobResult, Limits, Outcome, run_job
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate

#: Columns of the table of accesses before the dimensions of the block.
COLUMNS = ("x", "y", "z", "order", "kind", "argument", "element_bytes", "line", "dims")


@dataclass(frozen=True)
class Trace:
    """What came of tracing a forward pass.

    Attributes:
        launches: in order, as far as the pass came.
        problem: why there are no more; empty where the pass ended well.
    """

    launches: tuple[TracedLaunch, ...]
    problem: str = ""


def trace(
    task: Task,
    candidate: Candidate,
    gpu: Gpu,
    sample: Sample,
    *,
    configuration: int = 0,
    with_data: bool = False,
    deadline_s: float = 120.0,
) -> Trace:
    """Run some programs of each launch of a candidate in the interpreter and note every access.

    Args:
        task: says how the module is built and called, at its own sizes; it must have a reference.
        candidate: its source; it runs in a sandbox.
        gpu: the target that is pretended (grids may depend on it).
        sample: which programs of each launch are run.
        configuration: which one of each autotune list (modulo its length).
        with_data: give it the task's real inputs; else meta tensors, whose loads give zeros. Real inputs are
            only needed where addresses depend on data, and only useful where all programs run.
        deadline_s: wall seconds.

    Returns:
        the launches; never raises for what the candidate does.
    """
    assert task.reference is not None
    job = {
        "entry": "tilewright.gate.inside.trace_run:run",
        "source": base64.b64encode(cloudpickle.dumps(task.reference)).decode(),
        "gpu": gpu_figures(gpu),
        "needs_reference": candidate.needs_reference,
        "sample": asdict(sample),
        "configuration": configuration,
        "device": "cpu" if with_data else "meta",
    }
    result = run_job(
        job, deadline_s=deadline_s, limits=Limits(), environment={"TRITON_INTERPRET": "1"},
        files={FILE: candidate.source},
    )  # fmt: skip
    return read_trace(result)


def read_trace(result: JobResult) -> Trace:
    """What came back as typed values; whatever does not fit ends the trace."""
    problem = "" if result.outcome is Outcome.OK else result.message
    launches: list[TracedLaunch] = []
    try:
        for part in result.parts:
            if part.name == "end" and part.data.get("error"):
                problem = str(part.data["error"]["text"])
            elif part.name == f"launch {len(launches)}":
                launches.append(_launch(part.data, part.tensors, len(launches)))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, ArithmeticError) as error:
        problem = f"what the trace sent back cannot be read: {type(error).__name__}: {error}"
    return Trace(tuple(launches), problem)


def _launch(data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], index: int) -> TracedLaunch:
    described = tuple(
        TracedTensor(
            str(one["argument"]), int(one["storage"]), int(one["storage_offset"]),
            tuple(int(size) for size in one["shape"]), tuple(int(step) for step in one["stride"]),
            int(one["element_bytes"]), str(one["dtype"]),
        )
        for one in data["tensors"]
    )  # fmt: skip
    grid, programs = tuple(int(n) for n in data["grid"]), tensors["programs"].tolist()
    accesses = tuple(_accesses([str(name) for name in data["arguments"]], tensors))
    return TracedLaunch(
        str(data["kernel"]), index, (grid[0], grid[1], grid[2]), described,
        tuple((int(x), int(y), int(z)) for x, y, z in programs), accesses, bool(data["complete"]),
    )  # fmt: skip


def _accesses(arguments: list[str], tensors: Mapping[str, torch.Tensor]) -> Iterator[Access]:
    offsets, mask = tensors["offsets"].numpy(), tensors["mask"].numpy()
    if offsets.dtype != np.int64 or mask.dtype != np.bool_ or offsets.shape != mask.shape:
        raise ValueError("offsets and masks do not belong together")
    at = 0
    for row in tensors["table"].tolist():
        x, y, z, order, kind, argument, size, line, dims, *shape = row
        block = tuple(shape[:dims])
        count = int(np.prod(block, dtype=np.int64)) if block else 1
        if min(block, default=1) < 0 or at + count > offsets.size:
            raise ValueError("a block is longer than what came along")
        lanes = slice(at, at + count)
        yield Access(
            (x, y, z), order, KINDS[kind], arguments[argument], offsets[lanes].reshape(block),
            mask[lanes].reshape(block), size, line,
        )  # fmt: skip
        at += count
