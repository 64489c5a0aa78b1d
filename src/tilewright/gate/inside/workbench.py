"""In a sandboxed process: a candidate built from a job's arguments, its weights and its inputs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import cloudpickle
import torch
from torch import nn

from tilewright.gate.inside import runtime
from tilewright.gate.reference.subject import map_leaves
from tilewright.sandbox import wire


def source_of(job: Mapping[str, Any]) -> Any:
    """The reference's source, where the candidate is built from the reference itself; else None."""
    return cloudpickle.loads(base64.b64decode(job["source"])) if job["needs_reference"] else None


def build(job: Mapping[str, Any], module: Any, source: Any, constructor: int) -> tuple[nn.Module, nn.Module]:
    """A new candidate, and the module that holds its parameters (itself, or the reference that it was given).

    Args:
        job: `constructors` (pickled arguments) and `device`.
        module: the candidate's file, imported.
        source: of the reference, or None (`source_of`).
        constructor: which arguments.
    """
    arguments = cloudpickle.loads(base64.b64decode(job["constructors"][constructor]))
    reference = _reference(job, source, arguments)
    candidate = runtime.build_candidate(module, arguments, reference, str(job.get("mode", "eval")))
    holder = candidate if reference is None else reference
    if job["device"] == "cuda":
        return candidate.to("cuda"), holder.to("cuda")
    return candidate, holder


def _reference(job: Mapping[str, Any], source: Any, arguments: tuple[Any, ...] | None) -> nn.Module | None:
    if source is None:
        return None
    from tilewright.task import module_source

    given = None if source.pickled is not None else arguments
    built = module_source.build_module(source, init_args=given)
    return (built.to("cuda") if job["device"] == "cuda" else built).eval().requires_grad_(False)


def state_of(probe: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a probe, by the reference's names."""
    prefix = f"{probe['weights_key']}|"
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def inputs_of(job: Mapping[str, Any], probe: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inputs of a probe, in memory of their own where the candidate runs."""
    device = "cuda" if job["device"] == "cuda" else "cpu"
    return map_leaves(wire.unpack(probe["inputs"], tensors), lambda tensor: _copied(tensor, device))


def _copied(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A copy in the same layout; where elements share memory there is none, and it stays as it is."""
    if 0 in tensor.stride() and tensor.numel() > 1:
        return tensor.to(device)
    moved = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device=device)
    return moved.copy_(tensor)
