"""In the measuring process: modules and inputs out of a job, ready to be called."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.sandbox import wire
from tilewright.task.module_source import build_module, init_args, make_inputs
from tilewright.task.task import InputSpec, ModuleSource
from tilewright.values.candidate import Candidate

#: Sets of inputs that are used in turns: at most so many, and no more than this part of the free memory.
INPUT_SETS = 4
INPUT_MEMORY_PART = 0.1


def source_as_json(source: ModuleSource) -> dict[str, Any]:
    """A module source as JSON data, for another process."""
    return {
        "source": source.source,
        "class_name": source.class_name,
        "path": None if source.path is None else str(source.path),
        "init_args": None if source.init_args is None else wire.pack(source.init_args, {}, "init"),
        "inputs": None if source.inputs is None else [asdict(spec) for spec in source.inputs],
        "pickled": None if source.pickled is None else base64.b64encode(source.pickled).decode(),
        "first_line": source.first_line,
    }


def source_from_json(data: Mapping[str, Any]) -> ModuleSource:
    """The inverse of `source_as_json`."""
    inputs = data["inputs"]
    return ModuleSource(
        source=data["source"],
        class_name=data["class_name"],
        path=None if data["path"] is None else Path(data["path"]),
        init_args=None if data["init_args"] is None else tuple(wire.unpack(data["init_args"], {})),
        inputs=None if inputs is None else tuple(_input_spec(spec) for spec in inputs),
        pickled=None if data["pickled"] is None else base64.b64decode(data["pickled"]),
        first_line=data["first_line"],
    )


def _input_spec(data: Mapping[str, Any]) -> InputSpec:
    return InputSpec(**{**data, "shape": tuple(data["shape"])})


def candidate_as_json(candidate: Candidate) -> dict[str, Any]:
    """What the measuring process needs of a candidate."""
    return {"source": candidate.source, "needs_reference": candidate.needs_reference}


def build_candidate(data: Mapping[str, Any], reference: nn.Module, source: ModuleSource, device: str) -> nn.Module:
    """`ModelNew` with the reference's parameters, on `device`, in eval mode.

    Args:
        data: of `candidate_as_json`.
        reference: the built reference, on `device`.
        source: where the reference comes from; its constructor arguments are the candidate's too.
        device: where the module goes.
    """
    own = ModuleSource(source=data["source"], class_name="ModelNew")
    arguments = (reference,) if data["needs_reference"] else init_args(source)
    module = build_module(own, init_args=arguments, device=device)
    copy_state(reference, module)
    return module.eval().requires_grad_(False)


def copy_state(reference: nn.Module, module: nn.Module) -> None:
    """Copy parameters and buffers by name; where only the shape differs, the elements in order."""
    state = reference.state_dict()
    with torch.no_grad():
        for name, value in module.state_dict(keep_vars=True).items():
            given = state.get(name)
            if given is not None and given.numel() == value.numel() and given.data_ptr() != value.data_ptr():
                value.copy_(given.reshape(value.shape))


def input_sets(source: ModuleSource, device: str, free_bytes: int) -> list[list[Any]]:
    """The task's own inputs, and as many other sets of them as fit: the same elements in another order.

    Args:
        source: how inputs are made.
        device: where they go.
        free_bytes: free memory of the device.
    """
    first = make_inputs(source, seed=0, device=device)
    size = sum(item.nbytes for item in _tensors(first))
    count = max(1, min(INPUT_SETS, int(free_bytes * INPUT_MEMORY_PART) // max(size, 1)))
    return [first, *([_rolled(item, turn) for item in first] for turn in range(1, count))]


def _tensors(items: Sequence[Any]) -> list[torch.Tensor]:
    return [item for item in items if isinstance(item, torch.Tensor)]


def _rolled(item: Any, turn: int) -> Any:
    """A tensor's elements shifted, in the same layout; other values as they are."""
    if not isinstance(item, torch.Tensor):
        return item
    shifted = item.flatten().roll(turn * 7919).reshape(item.shape)
    return torch.empty_like(item).copy_(shifted)
