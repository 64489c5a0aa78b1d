"""Files that differ in schedule constants alone become one with a table; others are declined."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from tilewright.proposers.shape_table import merge_by_size

GOLDEN = Path(__file__).parent / "golden"

TEXT = '''"""doc"""

import torch
import triton


@triton.jit
def scale_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK


def pack(weight):
    return weight.reshape(1, -1)


def inner(x, out,
          *, CO):
    ROWS, BLOCK = 1, min(64, CO)
    scale_kernel[(triton.cdiv(x.numel(), BLOCK),)](
        x, out, x.numel(), BLOCK=BLOCK, num_warps=4, num_stages=2,
    )


def scale(x, factor):
    out = torch.empty_like(x)
    inner(
        x, out, CO=3,
    )
    return out


def prepare(weight):
    return pack(weight)


class ModelNew(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()

    def forward(self, x):
        if not x.is_cuda:
            return x
        return scale(x, 2.0)
'''


def variant(block: int, warps: int) -> str:
    return TEXT.replace("min(64,", f"min({block},").replace("num_warps=4", f"num_warps={warps}")


def merged(*ranges: tuple[int | None, str]) -> str:
    text = merge_by_size(ranges)
    assert text is not None
    return text


def test_the_constants_move_into_a_table_and_the_schedule_is_handed_down() -> None:
    text = merged((1024, variant(32, 2)), (None, variant(128, 8)))
    ast.parse(text)
    assert '    (1024, {"BLOCK": 32, "num_warps": 2}),\n    (None, {"BLOCK": 128, "num_warps": 8}),\n' in text
    assert 'ROWS, BLOCK = 1, min(schedule["BLOCK"], CO)' in text
    assert 'num_warps=schedule["num_warps"], num_stages=2,' in text
    assert "*, CO, schedule):" in text
    assert "x, out, CO=3, schedule=schedule,\n    )" in text or "x, out, CO=3,\n     schedule=schedule,)" in text
    assert "def scale(x, factor, schedule):" in text
    assert "        schedule = schedule_for(x.numel())\n        return scale(x, 2.0, schedule=schedule)\n" in text
    assert text.index("SCHEDULES = (") < text.index("def pack(")


def test_the_table_is_read_by_size() -> None:
    text = merged((1024, variant(32, 2)), (4096, variant(64, 2)), (None, variant(128, 8)))
    start = text.index("SCHEDULES = (")
    names: dict[str, Any] = {}
    exec(text[start : text.index("def pack(")], names)
    found = [names["schedule_for"](size)["BLOCK"] for size in (1, 1024, 1025, 4096, 4097, 10**9)]
    assert found == [32, 32, 64, 64, 128, 128]


@pytest.mark.parametrize(
    "other",
    [
        TEXT,  # nothing differs
        TEXT.replace("* BLOCK", "* BLOCK + 0"),  # another kernel
        TEXT.replace("reshape(1,", "reshape(2,"),  # what is packed once
        TEXT.replace("2.0", "3.0"),  # a value, not a schedule
        TEXT.replace("def inner(x, out,", "def inner(x, out2,"),
    ],
)
def test_what_differs_in_more_than_a_schedule_is_declined(other: str) -> None:
    assert merge_by_size([(1024, TEXT), (None, other)]) is None


def test_names_that_collide_are_kept_apart() -> None:
    text = TEXT.replace("def prepare", "def twice(x):\n    return inner(x, x, CO=3, num_warps=4)\n\n\ndef prepare")
    text = text.replace("return scale(x, 2.0)", "return scale(twice(x), 2.0)")
    other = text.replace("num_warps=4)", "num_warps=8)").replace("num_warps=4, num_stages", "num_warps=2, num_stages")
    found = merged((64, text), (None, other))
    assert '"num_warps": 4, "num_warps_2": 4}' in found
    assert '"num_warps": 2, "num_warps_2": 8}' in found
