"""Tilewright: the GPU kernel specialist, as a program.

`import tilewright` stays light: torch, triton and numpy at most, and each name below loads what it needs
when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "optimize": "tilewright.api",
    "verify": "tilewright.api",
    "inspect": "tilewright.api",
    "profile": "tilewright.api",
    "diagnose": "tilewright.api",
    "compiled_peer": "tilewright.drop_in",
}

if TYPE_CHECKING:
    from tilewright.api import diagnose, inspect, optimize, profile, verify
    from tilewright.drop_in import compiled_peer

__all__ = ["__version__", "compiled_peer", "diagnose", "inspect", "optimize", "profile", "verify"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
