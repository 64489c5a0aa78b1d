"""In a sandboxed process: the second forward pass of a candidate, recorded, and its kernels' machine code.

Entry `run`. Parts: `recording`, as `tilewright.gate.inside.recorder` sends it; `kernel I` for each distinct launch,
with the cubin (bytes) and Triton's GPU dialect beside what the compiler says.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from tilewright.gate.inside import runtime
from tilewright.gate.inside.execute import describe
from tilewright.gate.inside.pretend import pretend
from tilewright.gate.inside.recorder import Recorder
from tilewright.gate.reference.subject import Subject, leaves, map_leaves
from tilewright.toolchain import triton_compat

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module."""
    subject = Subject.of(cloudpickle.loads(base64.b64decode(job["source"])))
    inputs = map_leaves(
        subject.inputs(0, "meta"),
        lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"),
    )
    reference = subject.build(subject.own_arguments) if job["needs_reference"] else None
    recorder, known, data = Recorder(), [], dict[str, Any]()
    try:
        with pretend(job["gpu"], "cpu", poisoned=False):
            module = runtime.load_candidate(Path.cwd())
            candidate = runtime.build_candidate(module, subject.own_arguments, reference)
        candidate = candidate.to("meta")
        with pretend(job["gpu"], "meta", poisoned=False), torch.no_grad():
            with Recorder().watching():
                candidate(*inputs)  # packs weights and the like, once
            with recorder.watching():
                outputs = candidate(*inputs)
        data["outputs"] = [recorder.storage(leaf) for leaf in leaves(outputs)]
        known = [*leaves(inputs), *candidate.parameters(), *candidate.buffers()]
    except Exception as error:
        data["error"] = describe(error)
    given = [recorder.storage(leaf) for leaf in known]
    emit("recording", data | {"steps": recorder.steps, "given": given, "inputs": len(leaves(inputs))}, None)
    with pretend(job["gpu"], "meta"):
        for index, (key, (kernel, args, kwargs)) in enumerate(recorder.distinct.items()):
            compiled, code = _compiled(kernel, args, kwargs)
            emit(f"kernel {index}", {"key": key, **compiled}, code)


def _compiled(
    kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    name = triton_compat.kernel_name(kernel)
    try:
        compiled, cubin, dialect = triton_compat.compile_with_code(kernel, args, kwargs)
    except Exception as error:
        return {"kernel": name, "error": str(error)[-500:], "line": None}, {}
    said = {
        "kernel": name,
        "registers": compiled.registers,
        "spill_bytes": compiled.spill_bytes,
        "shared_bytes": compiled.shared_bytes,
        "warps": compiled.warps,
        "dialect": dialect,
    }
    return said, {"cubin": torch.frombuffer(bytearray(cubin), dtype=torch.uint8)}
