"""One file out of several that differ in schedule constants alone: a small table says which constants serve which size.

    BLOCK = 64; kernel[grid](..., num_warps=4)
        -> BLOCK = schedule["BLOCK"]; kernel[grid](..., num_warps=schedule["num_warps"])

`forward` looks the schedule up by the number of elements of its first input and hands it down. Declined (None) where
the files differ in anything but integers of wrapper functions, or where such a function serves what is prepared once
for all shapes.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tilewright.values.syntax_tree import parse_tree

_LOOK_UP = '''\
# Chosen when this file was written: up to so many elements of the first input, these constants.
SCHEDULES = (
{rows}
)


def schedule_for(elements):
    """The constants for an input of so many elements."""
    for limit, schedule in SCHEDULES:
        if limit is None or elements <= limit:
            return schedule


'''


@dataclass(frozen=True)
class _Literal:
    """An integer that differs: where it stands, the function that it stands in, its name, its value in each file."""

    line: int
    column: int
    length: int
    function: str
    name: str
    values: tuple[int, ...]


def merge_by_size(ranges: Sequence[tuple[int | None, str]]) -> str | None:
    """The files as one.

    Args:
        ranges: (largest number of elements of the first input, source), smallest first; the last limit is None.

    Returns:
        the source, or None where the files cannot be merged.
    """
    sources = [source for _, source in ranges]
    text = sources[-1]
    places = _differences(sources)
    if not places:
        return None
    tree = parse_tree(text)
    literals = _named(places, tree)
    if literals is None:
        return None
    carriers = _carriers(tree, {literal.function for literal in literals})
    if carriers is None:
        return None
    edits = [(literal.line, literal.column, literal.length, f'schedule["{literal.name}"]') for literal in literals] + [
        *_passed_on(tree, text, carriers)
    ]
    first = _first_wrapper(tree)
    edits.append((first, 0, 0, _table(ranges, literals)))
    merged = _edited(text, edits)
    try:
        parse_tree(merged)
    except SyntaxError:
        return None
    return merged


# -- what differs ---------------------------------------------------------------------------------------------


def _differences(sources: Sequence[str]) -> list[tuple[tokenize.TokenInfo, tuple[int, ...]]] | None:
    """Integer tokens of the last source whose values differ; None where anything else does."""
    streams = [_tokens(source) for source in sources]
    if len({len(stream) for stream in streams}) != 1:
        return None
    found = []
    for tokens in zip(*streams, strict=True):
        if len({token.string for token in tokens}) == 1:
            continue
        if any(token.type != tokenize.NUMBER or not token.string.isdigit() for token in tokens):
            return None
        found.append((tokens[-1], tuple(int(token.string) for token in tokens)))
    return found


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    skipped = {tokenize.NL, tokenize.COMMENT}
    return [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in skipped]


def _named(places: Sequence[tuple[tokenize.TokenInfo, tuple[int, ...]]], tree: ast.Module) -> list[_Literal] | None:
    """The literals with their functions and names; None where one stands outside of a wrapper function."""
    wrappers = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and not _is_jitted(node)}
    taken: dict[str, tuple[str, tuple[int, ...]]] = {}
    literals = []
    for token, values in places:
        line, column = token.start
        function = next((f for f in wrappers.values() if f.lineno < line <= (f.end_lineno or 0)), None)
        if function is None:
            return None
        name = _name(function, line, column) or "constant"
        number = 1
        unique = name
        while unique in taken and taken[unique] != (function.name, values):
            number += 1
            unique = f"{name}_{number}"
        taken[unique] = (function.name, values)
        literals.append(_Literal(line, column, len(token.string), function.name, unique, values))
    return literals


def _is_jitted(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).partition("(")[0].endswith("jit") for decorator in node.decorator_list)


def _name(function: ast.FunctionDef, line: int, column: int) -> str:
    """What the integer at that place is called: the keyword that it is passed as, or the name that it is given to."""
    best, size = "", float("inf")
    for node in ast.walk(function):
        pairs: list[tuple[str, ast.expr]] = []
        if isinstance(node, ast.keyword) and node.arg is not None:
            pairs.append((node.arg, node.value))
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            pairs += _assigned(node.targets[0], node.value)
        for name, value in pairs:
            extent = _extent(value)
            if _holds(value, line, column) and extent < size:
                best, size = name, extent
    return best


def _assigned(target: ast.expr, value: ast.expr) -> list[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        return [(target.id, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return [pair for one, other in zip(target.elts, value.elts, strict=True) for pair in _assigned(one, other)]
    return []


def _holds(node: ast.expr, line: int, column: int) -> bool:
    end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
    return (node.lineno, node.col_offset) <= (line, column) < end


def _extent(node: ast.expr) -> float:
    lines = (node.end_lineno or node.lineno) - node.lineno
    return lines * 10_000.0 + (node.end_col_offset or 0) - (node.col_offset if not lines else 0)


# -- who hands it down ----------------------------------------------------------------------------------------


def _carriers(tree: ast.Module, needing: set[str]) -> set[str] | None:
    """Functions that take the schedule: those that need it, and those through which `forward` reaches them.

    None where one is reached from elsewhere, such as from what is prepared once.
    """
    callers: dict[str, set[str]] = {}
    forward_calls: set[str] = set()
    for owner, node in _functions(tree):
        for call in _calls(node):
            if owner == "ModelNew" and node.name == "forward":
                forward_calls.add(call)
            elif owner:
                callers.setdefault(call, set()).add(f"{owner}.{node.name}")
            else:
                callers.setdefault(call, set()).add(node.name)
    carriers: set[str] = set()
    waiting = set(needing)
    while waiting:
        name = waiting.pop()
        carriers.add(name)
        above = callers.get(name, set())
        if any("." in caller for caller in above) or not (above or name in forward_calls):
            return None
        waiting |= above - carriers
    return carriers


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            yield from ((node.name, item) for item in node.body if isinstance(item, ast.FunctionDef))


def _calls(node: ast.AST) -> set[str]:
    return {call.func.id for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


def _passed_on(tree: ast.Module, text: str, carriers: set[str]) -> Iterator[tuple[int, int, int, str]]:
    """Insertions: a parameter of each carrier, an argument of each call, and the look-up in `forward`."""
    lines = text.splitlines(keepends=True)
    for owner, node in _functions(tree):
        if not owner and node.name in carriers:
            yield _before_parenthesis(lines, *_end_of_parameters(node, lines), "schedule")
        is_forward = owner == "ModelNew" and node.name == "forward"
        if is_forward:
            yield _look_up(node)
        if is_forward or node.name in carriers:
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in carriers:
                    end = call.end_lineno or call.lineno, (call.end_col_offset or 1) - 1
                    yield _before_parenthesis(lines, *end, "schedule=schedule")


def _look_up(forward: ast.FunctionDef) -> tuple[int, int, int, str]:
    """The schedule is looked up after the first guard, or at the start."""
    first = forward.args.args[1].arg
    body = [item for item in forward.body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))]
    after = next((index for index, item in enumerate(body) if not isinstance(item, ast.If)), len(body) - 1)
    place = body[after]
    return place.lineno, 0, 0, f"{' ' * place.col_offset}schedule = schedule_for({first}.numel())\n"


def _end_of_parameters(node: ast.FunctionDef, lines: Sequence[str]) -> tuple[int, int]:
    """Line and column of the parenthesis that closes a function's parameters."""
    depth, line = 0, node.lineno
    column = lines[line - 1].index("(", node.col_offset)
    while True:
        for at in range(column, len(lines[line - 1])):
            depth += {"(": 1, ")": -1}.get(lines[line - 1][at], 0)
            if depth == 0:
                return line, at
        line, column = line + 1, 0


def _before_parenthesis(lines: Sequence[str], line: int, column: int, item: str) -> tuple[int, int, int, str]:
    """An insertion of one more item before a closing parenthesis, whatever stands before that."""
    before = "".join(lines[: line - 1])[-2000:] + lines[line - 1].encode()[:column].decode()
    last = before.rstrip()[-1:]
    return line, column, 0, item if last == "(" else f" {item}," if last == "," else f", {item}"


# -- text -----------------------------------------------------------------------------------------------------


def _first_wrapper(tree: ast.Module) -> int:
    return min(node.lineno for node in tree.body if isinstance(node, ast.FunctionDef) and not node.decorator_list)


def _table(ranges: Sequence[tuple[int | None, str]], literals: Sequence[_Literal]) -> str:
    rows = []
    for index, (limit, _) in enumerate(ranges):
        constants: Mapping[str, int] = {literal.name: literal.values[index] for literal in literals}
        rows.append(f"    ({limit}, {{{', '.join(f'{name!r}: {value}' for name, value in constants.items())}}}),")
    return _LOOK_UP.format(rows="\n".join(rows).replace("'", '"'))


def _edited(text: str, edits: Sequence[tuple[int, int, int, str]]) -> str:
    """Replacements by (line, byte column, length, new text), made from the end on."""
    lines = text.splitlines(keepends=True)
    for line, column, length, new in sorted(edits, key=lambda edit: (edit[0], edit[1]), reverse=True):
        raw = lines[line - 1].encode()
        lines[line - 1] = (raw[:column] + new.encode() + raw[column + length :]).decode()
    return "".join(lines)
