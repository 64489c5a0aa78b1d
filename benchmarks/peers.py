"""The peers: modes of torch.compile, each on a module of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.results import Kind

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Peer:
    """One way to compile the reference.

    Attributes:
        name: for tables.
        mode: torch.compile's mode.
        channels_last: module and inputs are converted first, outside of the timing.
        autocast: float16 autocast: another precision class, for information only.
    """

    name: str
    mode: str = "default"
    channels_last: bool = False
    autocast: bool = False

    @property
    def kind(self) -> Kind:
        """What it is to the comparison."""
        return Kind.INFORMATION if self.autocast else Kind.PEER


PEERS: tuple[Peer, ...] = (
    Peer("compile"),
    Peer("compile channels_last", channels_last=True),
    Peer("compile max-autotune", mode="max-autotune-no-cudagraphs"),
    Peer("compile max-autotune channels_last", mode="max-autotune-no-cudagraphs", channels_last=True),
    Peer("compile max-autotune graphs", mode="max-autotune"),
)
AUTOCAST = Peer("compile fp16 autocast", autocast=True)


class NotApplicableError(Exception):
    """The peer has no meaning for this case."""


def prepare_torch(precision: str) -> None:
    """Set the class that float32 products run in, and keep torch.compile from generalising between peers."""
    allow = precision != "ieee"
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow
    config: Any = importlib.import_module("torch._dynamo").config
    # Peers share the module's code; a limit on compilations of one function must not send one back to eager.
    for name in ("recompile_limit", "cache_size_limit"):
        if hasattr(config, name):
            setattr(config, name, 64)
    config.automatic_dynamic_shapes = False


def build_peer(peer: Peer, module: nn.Module) -> Callable[..., Any]:
    """`module`, which the peer may convert in place, compiled."""
    if peer.channels_last:
        convert_module(module)
    if peer.mode == "default":
        compiled: Callable[..., Any] = torch.compile(module, dynamic=False)
    else:
        compiled = torch.compile(module, mode=peer.mode, dynamic=False)
    if not peer.autocast:
        return compiled

    def under_autocast(*inputs: Any) -> Any:
        with torch.autocast("cuda", torch.float16):
            return compiled(*inputs)

    return under_autocast


def convert_module(module: nn.Module) -> None:
    """Parameters of 4 and 5 dims in channels_last."""
    for parameter in module.parameters():
        layout = _FORMATS.get(parameter.dim())
        if layout is not None:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def converted_inputs(peer: Peer, inputs: Sequence[Any]) -> list[Any]:
    """The inputs in the peer's layout.

    Raises:
        NotApplicableError: none of them has 4 or 5 dims.
    """
    if not peer.channels_last:
        return list(inputs)
    if not any(isinstance(item, torch.Tensor) and item.dim() in _FORMATS for item in inputs):
        raise NotApplicableError("no input has a channels_last layout")
    return [
        item.contiguous(memory_format=_FORMATS[item.dim()])
        if isinstance(item, torch.Tensor) and item.dim() in _FORMATS
        else item
        for item in inputs
    ]
