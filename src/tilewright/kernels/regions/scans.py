"""Scans along a row: cumulative sums and products, from either end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.fx as torch_fx

from tilewright.graph.nodes import argument, source_of

aten = torch.ops.aten

#: Scan along one dim -> its kind.
_SCANS: dict[object, str] = {aten.cumsum.default: "sum", aten.cumprod.default: "prod"}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Scan:
    """One scan of floats along one dim, to the same type.

    Attributes:
        kind: how elements combine: `sum` or `prod`.
        source: what is scanned.
        dim: along which, counted from 0.
        reverse: from the last element to the first.
        inner: nodes that are part of it and give nothing else.
    """

    kind: str
    source: torch_fx.Node
    dim: int
    reverse: bool = False
    inner: tuple[torch_fx.Node, ...] = ()


def scan_of(node: torch_fx.Node) -> Scan | None:
    """The scan whose result is `node`: `cumsum(x)`, or `flip(cumsum(flip(x)))` along one dim; None for others."""
    if node.op != "call_function":
        return None
    if node.target is not aten.flip.default:
        return _forward_scan(node)
    inner = source_of(node)
    scan = _forward_scan(inner)
    if scan is None or scan.source.target is not aten.flip.default:
        return None
    turned = scan.source
    alone = len(inner.users) == 1 and len(turned.users) == 1
    rank = len(inner.meta["val"].shape)
    along = all([dim % rank for dim in argument(flip, 1)] == [scan.dim] for flip in (node, turned))
    return Scan(scan.kind, source_of(turned), scan.dim, True, (turned, inner)) if alone and along else None


def _forward_scan(node: torch_fx.Node) -> Scan | None:
    if node.op != "call_function" or node.target not in _SCANS or node.kwargs:
        return None
    source = source_of(node)
    value = source.meta["val"]
    same_type = node.meta["val"].dtype is value.dtype and argument(node, 2) in (None, value.dtype)
    if value.dtype not in _FLOATS or not same_type or value.dim() == 0:
        return None
    return Scan(_SCANS[node.target], source, argument(node, 1) % value.dim())
