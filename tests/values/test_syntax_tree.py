"""Syntax trees: several threads may ask at once."""

from __future__ import annotations

import ast
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tilewright.values.syntax_tree import parse_tree

TEXT = "\n".join(f"def f{i}(x, y={i}):\n    return [x + y * {i}, (x, y)]" for i in range(200))


class Garbage:
    """Collected in the middle of another thread's parse, where it lets others run."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(1e-4)


@pytest.fixture
def _eager_collector() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(20)
    yield
    gc.set_threshold(*before)
    gc.enable()


def parse_among_garbage(depth: int) -> ast.Module:
    if depth:
        return parse_among_garbage(depth - 1)
    gc.disable()
    for _ in range(100):
        Garbage()
    gc.enable()
    return parse_tree(TEXT)


@pytest.mark.usefixtures("_eager_collector")
def test_threads_that_parse_at_once_do_not_disturb_each_other() -> None:
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(parse_among_garbage, [number % 9 for number in range(32)]))
    right = ast.dump(ast.parse(TEXT))
    assert all(ast.dump(tree) == right for tree in trees)


def test_what_does_not_parse_is_a_syntax_error() -> None:
    with pytest.raises(SyntaxError):
        parse_tree("def f(:\n")
