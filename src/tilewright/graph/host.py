"""Tensors without data, moved to the host: a capture computes nothing, but values that forward itself writes down
(`torch.tensor(0.0, device=x.device)`) are known only where their device holds data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def host_twin(value: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape, strides and type on the CPU; its memory is not written, and so costs nothing.

    Where the host has no room for it, the tensor itself.
    """
    try:
        twin = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
    except RuntimeError:
        return value
    return nn.Parameter(twin, value.requires_grad) if isinstance(value, nn.Parameter) else twin


@contextlib.contextmanager
def on_host(module: nn.Module) -> Iterator[None]:
    """While it is captured, every tensor of the module that has no data is replaced by a twin on the host."""
    twins: dict[int, torch.Tensor] = {}
    changed: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    for child in module.modules():
        tables: tuple[dict[str, Any], ...] = (child._parameters, child._buffers, vars(child))
        for table in tables:
            for name, value in table.items():
                if isinstance(value, torch.Tensor) and value.is_meta:
                    changed.append((table, name, value))
    try:
        for table, name, value in changed:
            table[name] = twins.setdefault(id(value), host_twin(value))
        yield
    finally:
        for table, name, value in changed:
            table[name] = value
