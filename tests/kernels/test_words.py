"""torch's pointwise vocabulary: every word becomes a kernel, is right in the interpreter, and compiles for targets."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.kernels.captured_cases import Of
from tests.kernels.compiled import compile_for
from tests.kernels.words import WORDS, Word
from tests.once import once
from tilewright.gpu.table import find_gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.gemm.plan import GemmSchedule
from tilewright.kernels.operands import Operands
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import ModulePlan, NativeStep, PlanOptions


def in_a_chain(word: Word, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Pointwise operations with the word in the middle."""
    found = word(torch.exp(x), torch.tanh(y))
    return torch.where(found, x, y) if found.dtype is torch.bool else torch.exp(found)


def planned(words: Sequence[Word]) -> ModulePlan:
    """The plan of a module that returns every word in a chain."""
    module = Of(lambda m, x, y: [in_a_chain(word, x, y) for word in words])
    return plan_module(simplify(capture(module, [torch.randn(6, 8), torch.randn(6, 8)])).graph, PlanOptions())


#: So many words are planned together: the time of a plan grows with the square of its graph.
_TOGETHER = 12


@functools.cache
def leading_to_outputs(first: int) -> dict[str, tuple[set[str], int]]:
    """Of some words, what is left to PyTorch on the way to its output, and how many kernels lie there."""
    names = list(WORDS)[first : first + _TOGETHER]
    plan = planned([WORDS[name] for name in names])
    found = {}
    for name, output in zip(names, plan.graph.returned, strict=True):
        waiting, seen = [output], set()
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += node.all_input_nodes
        steps = [step for step in plan.steps if step.node in seen]
        native = {str(step.node.target) for step in steps if isinstance(step, NativeStep)}
        found[name] = (native, len(steps) - len(native))
    return found


@pytest.mark.parametrize("name", WORDS)
def test_a_word_breaks_no_chain(name: str) -> None:
    place = list(WORDS).index(name)
    assert leading_to_outputs(place - place % _TOGETHER)[name] == (set(), 1)


@pytest.mark.parametrize(
    "word",
    [torch.nextafter, torch.float_power, lambda x, y: F.rrelu(x, 0.1, 0.3, True)],
    ids=["not in the table", "another type", "random"],
)
def test_what_no_row_takes(word: Word) -> None:
    assert planned([word]).native


def test_reductions_of_one_element_behind_a_product_are_no_steps() -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.layer(x).sum(1, keepdim=True).max(1, keepdim=True)[0].mean(1, keepdim=True)
        return y.logsumexp(1, keepdim=True).logsumexp(1, keepdim=True)

    graph = simplify(capture(Of(forward, layer=nn.Linear(64, 128)), [torch.randn(32, 64)])).graph
    plan = plan_module(graph, PlanOptions(gemms=(GemmSchedule(Operands.HALF, 128, 128, 64),)))
    assert not plan.native
    assert len(plan.steps) == 2  # the sums of the weights, and the product with them


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is wrong with each word, from a process in which Triton's interpreter runs."""
    found: dict[str, str] = once(tmp_path_factory, "words", _problems)
    return found


def _problems() -> dict[str, str]:
    command = [sys.executable, "-m", "tests.kernels.words_in_interpreter"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    found = {row["name"]: row["problem"] for row in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == WORDS.keys(), done.stderr[-2000:]
    return found


@pytest.mark.parametrize("name", WORDS)
def test_a_word_is_right(name: str, problems: dict[str, str]) -> None:
    assert not problems[name]


#: Words whose helpers are more than plain arithmetic.
COMPILED = (
    "fmod",
    "floor_divide",
    "round",
    "copysign 2.5",
    "atan2",
    "erfc",
    "sinh",
    "xlogy 2.5",
    "chosen by both",
    "not",
)


@pytest.mark.parametrize("gpu", ["a100-sxm-80gb", "rtx-4090", "h200"])
def test_words_compile(gpu: str) -> None:
    module = Of(lambda m, x, y: [WORDS[name](x, y) for name in COMPILED])
    kernels = compile_for(module, [torch.randn(6, 8), torch.randn(6, 8)], PlanOptions(), find_gpu(gpu))
    assert len(kernels) == len(COMPILED)
