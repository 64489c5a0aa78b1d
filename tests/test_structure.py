"""The direction of the arrows, and the size of the rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tilewright

ROOT = Path(tilewright.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: Floors from below; a package may import from floors below its own, and from its left on its own. The packages of
#: floor 0 define the shared values together.
FLOORS = (
    ("values", "errors", "gpu", "task", "sandbox"),
    ("toolchain", "graph", "kernels"),
    ("gate", "measure", "diagnosis"),
    ("proposers",),
    ("search",),
    ("report",),
    ("drop_in", "api", "suite", "mcp", "cli", "__main__"),
)


#: Rooms of two packages from below: a file imports from rooms of earlier rows, and from its own room.
#: Those of one row, such as the kinds of kernels, do not import each other.
ROOMS = {
    "kernels": (
        ("code", "operands"),
        ("ops",),
        ("regions",),
        ("plan", "native"),
        ("fused", "rows", "gemm", "conv", "depthwise", "pool", "collapse"),
        ("steps",),
        ("planner",),
        ("module",),
    ),
    "gate": (
        ("checks",),
        ("contract", "compare", "reference"),
        ("probes",),
        ("inside",),
        ("mutate", "judging"),
        ("stages",),
        ("verify",),
    ),
}


def part_of(path: Path) -> str:
    """The package (or top-level module) that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] + [
                f"{node.module}.{alias.name}" for alias in node.names if node.module == "tilewright"
            ]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("tilewright."))


def allowed(part: str) -> set[str]:
    """What a part may import from."""
    floor = next(number for number, parts in enumerate(FLOORS) if part in parts)
    own = FLOORS[floor]
    beside = own if floor == 0 else own[: own.index(part) + 1]
    return {name for parts in FLOORS[:floor] for name in parts} | set(beside)


@pytest.mark.parametrize("path", [path for path in FILES if path != ROOT / "__init__.py"], ids=lambda path: path.stem)
def test_imports_go_down(path: Path) -> None:
    part = part_of(path)
    wrong = {
        name
        for name in imported_parts(ast.parse(path.read_text()))
        if (ROOT / name).exists() or (ROOT / f"{name}.py").exists()
    } - allowed(part)
    assert not wrong, f"{path.relative_to(ROOT)} imports from {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_from_below(package: str) -> None:
    floor_of = {room: number for number, rooms in enumerate(ROOMS[package]) for room in rooms}
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(f"tilewright.{package}"):
                continue
            inside = (node.module or "").split(".")[2:3] or [alias.name for alias in node.names]
            wrong += [
                f"{path.relative_to(ROOT)} imports from {other}"
                for other in inside
                if other != room and floor_of[other] >= floor_of[room]
            ]
    assert not wrong


def test_no_function_is_longer_than_a_hundred_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 100
    ]
    assert not long


def test_no_file_is_longer_than_seven_hundred_lines() -> None:
    assert not [str(path.relative_to(ROOT)) for path in FILES if path.read_text().count("\n") > 700]


def test_every_package_has_its_floor() -> None:
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert parts == {name for floor in FLOORS for name in floor}
