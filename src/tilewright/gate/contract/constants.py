"""The integer constants of a candidate: where its behaviour may change with a size."""

from __future__ import annotations

import ast

from tilewright.values.syntax_tree import parse_tree

#: Larger literals are not sizes of anything that is run here.
BOUND = 1 << 16


def integer_constants(source: str, bound: int = BOUND) -> tuple[int, ...]:
    """Integers from 2 to `bound` that occur in the source, sorted, with the products of a configuration's tiles.

    Literals, default values and values of `triton.Config` are all literals of the syntax tree; a negative one
    counts by its size. A source that does not parse has none.
    """
    try:
        tree = parse_tree(source)
    except SyntaxError:
        return ()
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            found.add(abs(node.value))
        elif isinstance(node, ast.Constant) and type(node.value) is float and node.value.is_integer():
            found.add(abs(int(node.value)))
        elif isinstance(node, ast.BinOp):
            found |= _folded(node)
    return tuple(sorted(value for value in found if 2 <= value <= bound))


def _folded(node: ast.BinOp) -> set[int]:
    """The value of a small constant expression such as `4 * 64` or `1 << 10`."""
    left, right = node.left, node.right
    if not (isinstance(left, ast.Constant) and isinstance(right, ast.Constant)):
        return set()
    if type(left.value) is not int or type(right.value) is not int:
        return set()
    if isinstance(node.op, ast.Mult):
        return {left.value * right.value}
    if isinstance(node.op, ast.LShift) and 0 <= right.value < 32:
        return {left.value << right.value}
    if isinstance(node.op, ast.Pow) and 0 <= right.value < 32 and abs(left.value) <= 16:
        return {left.value**right.value}
    return set()
