"""Small helpers on LibCST trees: text of a node, replacing nodes by identity, keyword arguments of a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import libcst as cst

Replacement = cst.CSTNode | cst.FlattenSentinel[Any] | cst.RemovalSentinel

_EMPTY = cst.Module([])


def code_of(node: cst.CSTNode) -> str:
    """The text of a node, comments and inner whitespace included."""
    return _EMPTY.code_for_node(node)


def expression(text: str) -> cst.BaseExpression:
    """An expression from its text."""
    return cst.parse_expression(text)


def statements(text: str) -> list[cst.BaseStatement]:
    """Statements from their text (any number of lines, no outer indentation)."""
    return [statement for statement in cst.parse_module(text).body if isinstance(statement, cst.BaseStatement)]


def replace_nodes(module: cst.Module, replacements: Mapping[Any, Replacement]) -> cst.Module:
    """`module` with each key (a node of it, by identity) replaced; keys must not lie inside one another."""
    return cst.ensure_type(replace_inside(module, replacements), cst.Module)


def replace_inside(node: cst.CSTNode, replacements: Mapping[Any, Replacement]) -> cst.CSTNode:
    """The same for any node; the result is a node of the same kind.

    Only the ancestors of what is replaced are built anew (LibCST's own transformers visit all of the tree).
    """
    touched = {id(key) for key in replacements}
    _find_touched(node, touched)
    result = _rebuilt(node, replacements, touched)
    if not isinstance(result, cst.CSTNode):
        raise TypeError("the node itself must not be replaced by a sequence")
    return result


def _find_touched(node: cst.CSTNode, touched: set[int]) -> bool:
    """Add to `touched` every node that has a touched one below it."""
    if id(node) in touched:
        return True
    below = [_find_touched(child, touched) for child in children_of(node)]
    if any(below):
        touched.add(id(node))
        return True
    return False


def _rebuilt(node: cst.CSTNode, replacements: Mapping[Any, Replacement], touched: set[int]) -> Replacement:
    if node in replacements:
        return replacements[node]
    changes: dict[str, Any] = {}
    for name in _field_names(type(node)):
        value = getattr(node, name)
        if isinstance(value, cst.CSTNode) and id(value) in touched:
            changes[name] = _rebuilt(value, replacements, touched)
        elif isinstance(value, list | tuple) and any(id(item) in touched for item in value):
            changes[name] = [new for item in value for new in _rebuilt_item(item, replacements, touched)]
    return node.with_changes(**changes) if changes else node


def _rebuilt_item(item: Any, replacements: Mapping[Any, Replacement], touched: set[int]) -> list[Any]:
    """One item of a sequence: it may have become several, or none."""
    if id(item) not in touched:
        return [item]
    new = _rebuilt(item, replacements, touched)
    if isinstance(new, cst.FlattenSentinel):
        return list(new.nodes)
    return [new] if isinstance(new, cst.CSTNode) else []


@cache
def _field_names(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    """The fields of a kind of node that may hold code; whitespace and punctuation are left out."""
    return tuple(
        field.name
        for field in fields(kind)
        if field.name == "trailing_whitespace"
        or not any(word in field.name for word in ("whitespace", "lines", "semicolon", "comma", "header", "footer"))
    )


def children_of(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The nodes right below, in the order of the node's fields; whitespace is left out.

    LibCST's own `children` runs a whole rewriting pass for each node.
    """
    if isinstance(node, cst.TrailingWhitespace):
        return
    for name in _field_names(type(node)):
        value = getattr(node, name)
        if isinstance(value, cst.CSTNode):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, cst.CSTNode))


def walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The node and all below it, in source order, whitespace left out."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(list(children_of(current))))


def parents_of(root: cst.CSTNode) -> dict[cst.CSTNode, cst.CSTNode]:
    """Child -> parent for every node below `root`."""
    found: dict[cst.CSTNode, cst.CSTNode] = {}
    for node in walk(root):
        for child in children_of(node):
            found[child] = node
    return found


def ancestors(node: cst.CSTNode, parents: Mapping[cst.CSTNode, cst.CSTNode]) -> Iterator[cst.CSTNode]:
    """From the node's parent outwards."""
    current = parents.get(node)
    while current is not None:
        yield current
        current = parents.get(current)


def statement_of(node: cst.CSTNode, parents: Mapping[cst.CSTNode, cst.CSTNode]) -> cst.SimpleStatementLine | None:
    """The statement line that holds a node."""
    for outer in (node, *ancestors(node, parents)):
        if isinstance(outer, cst.SimpleStatementLine):
            return outer
    return None


def dotted_name(node: cst.CSTNode) -> str:
    """`tl.load` for a name or an attribute chain, else the empty string."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        head = dotted_name(node.value)
        return f"{head}.{node.attr.value}" if head else ""
    return ""


def names_in(node: cst.CSTNode) -> set[str]:
    """Names read in an expression or statement; attribute names and keywords of calls do not count."""
    found: set[str] = set()
    _collect_names(node, found)
    return found


def _collect_names(node: cst.CSTNode, found: set[str]) -> None:
    if isinstance(node, cst.Name):
        found.add(node.value)
    elif isinstance(node, cst.Attribute | cst.Arg):
        _collect_names(node.value, found)
    else:
        for child in children_of(node):
            _collect_names(child, found)


def integer_value(node: cst.CSTNode | None) -> int | None:
    """The value of an integer literal."""
    return int(node.value, 0) if isinstance(node, cst.Integer) else None


def squeezed(node: cst.CSTNode) -> str:
    """An expression's text without whitespace and outer parentheses, for comparison."""
    if isinstance(node, cst.BaseExpression) and getattr(node, "lpar", None):
        node = node.with_changes(lpar=[], rpar=[])
    return "".join(code_of(node).split())


def keyword(call: cst.Call, name: str) -> cst.Arg | None:
    """The keyword argument of that name."""
    return next((arg for arg in call.args if arg.keyword is not None and arg.keyword.value == name), None)


def with_keywords(call: cst.Call, values: Mapping[str, str | None]) -> cst.Call:
    """The call with keyword arguments set (text of the value) or removed (None), its layout kept.

    A comment beside an argument whose value changes is dropped: it spoke of the old value.
    """
    args = list(call.args)
    for name, text in values.items():
        index = next((i for i, arg in enumerate(args) if arg.keyword is not None and arg.keyword.value == name), None)
        if text is None:
            if index is not None:
                args = _without(args, index)
        elif index is not None:
            if squeezed(args[index].value) != "".join(text.split()):
                args[index] = _without_comment(args[index].with_changes(value=expression(text)))
        else:
            args = _appended(call, args, name, text)
    return call.with_changes(args=args)


def _without_comment(arg: cst.Arg) -> cst.Arg:
    comma = arg.comma
    if not isinstance(comma, cst.Comma) or not isinstance(comma.whitespace_after, cst.ParenthesizedWhitespace):
        return arg
    first = comma.whitespace_after.first_line
    if first.comment is None:
        return arg
    bare = first.with_changes(comment=None, whitespace=cst.SimpleWhitespace(""))
    return arg.with_changes(
        comma=comma.with_changes(whitespace_after=comma.whitespace_after.with_changes(first_line=bare))
    )


def _without(args: list[cst.Arg], index: int) -> list[cst.Arg]:
    kept = args[:index] + args[index + 1 :]
    if index == len(args) - 1 and kept:
        last = args[index]
        kept[-1] = kept[-1].with_changes(comma=last.comma, whitespace_after_arg=last.whitespace_after_arg)
    return kept


def _appended(call: cst.Call, args: list[cst.Arg], name: str, text: str) -> list[cst.Arg]:
    bare = cst.SimpleWhitespace("")
    added = cst.Arg(
        keyword=cst.Name(name), value=expression(text), equal=cst.AssignEqual(bare, bare), whitespace_after_arg=bare
    )
    if not args:
        return [added]
    last = args[-1]
    before = call.whitespace_before_args
    gap = before if isinstance(before, cst.ParenthesizedWhitespace) else cst.SimpleWhitespace(" ")
    comment = ""
    if isinstance(last.comma, cst.Comma) and isinstance(last.comma.whitespace_after, cst.ParenthesizedWhitespace):
        comment = "yes" if last.comma.whitespace_after.first_line.comment is not None else ""
    added = added.with_changes(whitespace_after_arg=last.whitespace_after_arg)
    if comment and isinstance(last.comma, cst.Comma) and isinstance(gap, cst.ParenthesizedWhitespace):
        # The comment stays with the argument that it was written for.
        old = cst.ensure_type(last.comma.whitespace_after, cst.ParenthesizedWhitespace)
        moved = gap.with_changes(first_line=old.first_line)
        plain = old.with_changes(first_line=cst.TrailingWhitespace())
        added = added.with_changes(comma=last.comma.with_changes(whitespace_after=plain))
        return [*args[:-1], last.with_changes(comma=cst.Comma(whitespace_after=moved)), added]
    added = added.with_changes(comma=last.comma)
    return [*args[:-1], last.with_changes(comma=cst.Comma(whitespace_after=gap), whitespace_after_arg=bare), added]
