"""What a sample of programs tells of operands that are not read as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilewright.diagnosis.unread import find_unread
from tilewright.search.understand import understand
from tilewright.task.load import load_task
from tilewright.values.candidate import Candidate, Origin

REFERENCE = """
import torch, torch.nn as nn
class Model(nn.Module):
    def forward(self, x):
        return EXPRESSION
def get_inputs(): return [torch.rand(6, 40, 24)]
def get_init_inputs(): return []
"""
#: Sums over the middle dim, as far as a loop over ROWS goes.
KERNEL = """
import torch
import torch.nn as nn
import triton
import triton.language as tl

@triton.jit
def sum_kernel(x_ptr, y_ptr, rows, H, W, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    w = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for h in range(0, rows):
        total += tl.load(x_ptr + (n * H + h) * W + w, mask=w < W, other=0.0)
    tl.store(y_ptr + n * W + w, total, mask=w < W)

class ModelNew(nn.Module):
    def forward(self, x):
        N, H, W = x.shape
        y = torch.empty((N, W), device=x.device)
        sum_kernel[(N,)](x, y, ROWS, H, W, BLOCK=32)
        return y
"""


def unread_of(tmp_path: Path, rows: str, expression: str = "x.sum(1)") -> dict[str, list[tuple[str, float, str]]]:
    reference = tmp_path / "reference.py"
    reference.write_text(REFERENCE.replace("EXPRESSION", expression))
    task = load_task(reference, gpu="4090")
    candidate = Candidate(KERNEL.replace("ROWS", rows), Origin.FILE, "a sum")
    found = find_unread(task, candidate, understand(task).graph)
    return {kernel: [(part.operand, part.read, part.what) for part in parts] for kernel, parts in found.items()}


def test_rows_that_no_program_reads_are_named(tmp_path: Path) -> None:
    [(operand, read, what)] = unread_of(tmp_path, "10")["sum_kernel"]
    assert (operand, what) == ("x_ptr", "indices 10 to 39 of dim 1")
    assert read == pytest.approx(0.25)


def test_a_kernel_that_reads_everything_is_left_alone(tmp_path: Path) -> None:
    assert unread_of(tmp_path, "H") == {}


def test_a_reference_that_selects_says_nothing(tmp_path: Path) -> None:
    assert unread_of(tmp_path, "10", "x[:, :10].sum(1)") == {}
