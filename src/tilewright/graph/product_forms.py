"""Products with a module's weights in the form of a linear layer, and einsums of two operands as products."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph, is_parameter_only
from tilewright.graph.nodes import argument, source_of, target_of
from tilewright.graph.rewrite import Editor, Rule

aten = torch.ops.aten


def _untransposed(node: torch_fx.Node) -> torch_fx.Node | None:
    """w, for a matrix w.T in any form."""
    if node.op != "call_function" or node.meta["val"].dim() != 2:
        return None
    target = target_of(node)
    order: Any = node.args[1:3] if target is aten.transpose.int else argument(node, 1)
    swaps = target is aten.t.default or (target is aten.transpose.int and {dim % 2 for dim in order} == {0, 1})
    permutes = target is aten.permute.default and [dim % 2 for dim in order] == [1, 0]
    return source_of(node) if swaps or permutes else None


def _linear(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    x, right = node.args[:2]
    if not isinstance(x, torch_fx.Node) or not isinstance(right, torch_fx.Node) or node.kwargs:
        return None
    weight = _untransposed(right)
    if weight is None or not is_parameter_only(weight, graph) or x.meta["val"].dim() < 2:
        return None
    return editor.call(aten.linear.default, x, weight)


def _einsum(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Two operands, one label that is summed, the last of the left one; the right one is a matrix or has its batch."""
    equation: Any = node.args[0]
    operands: Any = node.args[1]
    if len(operands) != 2 or "." in equation or "->" not in equation:
        return None
    terms, _, kept = equation.replace(" ", "").partition("->")
    left, right = terms.split(",")
    summed = (set(left) & set(right)) - set(kept)
    if any(len(set(term)) != len(term) for term in (left, right, kept)) or len(summed) != 1 or len(right) < 2:
        return None
    label = summed.pop()
    batch, columns = right[:-2], set(right) - set(left)
    if len(columns) != 1 or not left.endswith(label) or label not in right[-2:] or not left.startswith(batch):
        return None
    column = columns.pop()
    whole_batch = not batch or len(left) == len(right)
    if column not in right[-2:] or kept != left[:-1] + column or not whole_batch:
        return None
    x, other = operands
    if right.endswith(column + label):
        rank = len(right)
        other = editor.call(aten.transpose.int, other, rank - 2, rank - 1)
    return editor.call(aten.matmul.default, x, other)


PRODUCT_FORMS: tuple[Rule, ...] = (
    Rule("einsum of two", "einsum('ij,kj->ik', x, y) -> x @ y.T", (aten.einsum.default,), _einsum),
    Rule(
        "linear layer",
        "x @ w.T -> linear(x, w), for a parameter w",
        (aten.matmul.default, aten.mm.default),
        _linear,
    ),
)
