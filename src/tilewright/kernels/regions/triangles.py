"""Triangles of matrices as masks: `tril` and `triu` compare the two indexes of an element."""

from __future__ import annotations

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import has_data_dependent_size
from tilewright.graph.nodes import argument, source_of

aten = torch.ops.aten

_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.bool)


def is_triangle(node: torch_fx.Node) -> bool:
    """True for a triangle by a diagonal that is a number, of a type that kernels compute in."""
    if node.op != "call_function" or node.target not in (aten.tril.default, aten.triu.default) or node.kwargs:
        return False
    known = type(argument(node, 1, 0)) is int and not has_data_dependent_size(node)
    return known and source_of(node).meta["val"].dtype in _TYPES


def triangle_text(node: torch_fx.Node, value: str, row: str, column: str) -> str:
    """The value where the element of that row and column lies in the triangle, else 0."""
    sign = "<=" if node.target is aten.tril.default else ">="
    inside = f"{column} - {row} {sign} {argument(node, 1, 0)}"
    if source_of(node).meta["val"].dtype is torch.bool:
        return f"{value} & ({inside})"
    return f"tl.where({inside}, {value}, 0.0)"
