"""Small questions about FX nodes, typed once."""

from __future__ import annotations

from typing import Any

import torch.fx as torch_fx


def source_of(node: torch_fx.Node) -> torch_fx.Node:
    """The node's first argument, which is a node.

    Raises:
        TypeError: it is not.
    """
    first = node.args[0]
    if not isinstance(first, torch_fx.Node):
        raise TypeError(f"the first argument of {node.name} is no tensor")
    return first


def argument(node: torch_fx.Node, position: int, default: Any = None) -> Any:
    """A positional argument, or `default` where the call leaves it out."""
    return node.args[position] if len(node.args) > position else default


def target_of(node: torch_fx.Node) -> Any:
    """The operation of a call, as a key of the tables."""
    return node.target


def listed_dims(node: torch_fx.Node, position: int = 1) -> tuple[int, ...]:
    """Dims of a reduction counted from 0; all dims where none are given."""
    rank = source_of(node).meta["val"].dim()
    dims = argument(node, position)
    listed = [dims] if isinstance(dims, int) else list(dims or [])
    return tuple(sorted(dim % rank for dim in listed)) if listed else tuple(range(rank))


def is_one(size: object) -> bool:
    """True for a size that is 1 at any input."""
    return isinstance(size, int) and size == 1
