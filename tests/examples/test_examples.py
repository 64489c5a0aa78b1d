"""The examples: modules that run, documents that are read, starting kernels that are right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tilewright.gpu.table import find_gpu
from tilewright.task.check_inputs import check_inputs
from tilewright.task.compose import compose_document
from tilewright.task.load import load_task
from tilewright.task.module_source import build_module

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODULES = sorted(EXAMPLES.glob("*.py"))
DOCUMENTS = sorted((EXAMPLES / "documents").glob("*.txt"))

#: Document -> constructor arguments and inputs that are small and end nowhere on a tile's edge.
SMALL = {
    "add_min_gelu_mul": ("[4, 5, 4, 2, 0.5, 2.0]", "randn(2, 4, 5, 7)"),
    "min_sum_gelu_bias": ("[4, 7, 3, 2, 1, 1, (1, 1, 1)]", "randn(2, 4, 5, 6)"),
    "mish_add_hardtanh_scale": ("[4, 5, 3, 2, 1, 1, 0.5, 2]", "randn(2, 4, 9, 8)"),
    "linear_batchnorm_gelu_relu": ("[50, 35]", "randn(33, 50)"),
    "multiply_global_mean": ("[4, 5, 3, 2, 1, 1, 0.5]", "randn(2, 4, 9, 11)"),
}

#: Runs in a process of its own: Triton's interpreter is chosen when triton is imported.
COMPARE = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from tilewright.task.load import load_task
from tilewright.task.module_source import build_module, make_inputs
from tilewright.task.task import ModuleSource

document, reference, init, inputs = sys.argv[1:]
task = load_task(Path(document), reference=Path(reference), init=init, inputs=inputs)
right = build_module(task.reference)
given = build_module(ModuleSource(task.given_code, "ModelNew"), init_args=task.reference.init_args)
given.load_state_dict(right.state_dict())
exact = build_module(task.reference).double()
exact.load_state_dict(right.state_dict())
for scale in (1.0, 30.0, 1000.0, float("nan")):
    x = [item * scale for item in make_inputs(task.reference)]
    with torch.no_grad():
        wanted, found, truth = right(*x), given(*x), exact(*(item.double() for item in x))
    assert wanted.shape == found.shape, (wanted.shape, found.shape)
    assert torch.equal(wanted.isnan(), found.isnan()), scale
    size = truth.nan_to_num().abs().max() + 1e-30
    error, allowed = ((out - truth).nan_to_num().abs().max() / size for out in (found, wanted))
    assert error <= 8 * allowed + 1e-6, (scale, error, allowed)
"""


def test_all_are_there() -> None:
    assert {path.stem for path in DOCUMENTS} == set(SMALL)
    assert len(MODULES) >= 8


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_inputs_fit_the_module(path: Path) -> None:
    task = load_task(path, gpu="4090")
    assert task.reference is not None
    check_inputs(task.reference)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_document_is_what_we_would_write(path: Path) -> None:
    task = load_task(path, stage="document")
    assert task.gpu == find_gpu("4090")
    assert task.metrics == {}
    assert compose_document(task, task.stages[0]).encode() == path.read_bytes()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_starting_kernel_computes_what_the_module_does(path: Path) -> None:
    command = [sys.executable, "-c", COMPARE, path, EXAMPLES / f"{path.stem}.py", *SMALL[path.stem]]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.documents
@pytest.mark.parametrize(
    ("number", "example"),
    [
        ("000", "add_min_gelu_mul"),
        ("001", "min_sum_gelu_bias"),
        ("002", "mish_add_hardtanh_scale"),
        ("003", "linear_batchnorm_gelu_relu"),
        ("004", "multiply_global_mean"),
    ],
)
def test_the_state_of_an_example_is_the_documents(documents_dir: Path, number: str, example: str) -> None:
    """Parameters are copied by name; shapes may differ where the number of elements does not."""
    path = next(documents_dir.glob(f"{number}_*.txt"))
    task = load_task(path, reference=EXAMPLES / f"{example}.py")
    right = build_module(task.reference, device="meta").state_dict()
    given_task = load_task(path, init="[1]", inputs="rand(1)")
    arguments = load_task(EXAMPLES / f"{example}.py", gpu="4090").reference
    from tilewright.task.module_source import init_args

    given = build_module(given_task.reference, init_args=init_args(arguments), device="meta").state_dict()
    assert list(right) == list(given) or set(right) == set(given)
    assert all(right[name].numel() == given[name].numel() for name in right)
    assert isinstance(next(iter(right.values())), torch.Tensor)
