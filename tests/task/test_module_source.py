"""Modules and inputs out of sources: deterministic, in eval mode, with errors at the user's line."""

from __future__ import annotations

import inspect
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from task_texts import DOCUMENT, MODULE, REFERENCE
from torch import nn

from tilewright.errors import InputMismatchError, SourceError, TilewrightError
from tilewright.task.check_inputs import check_inputs
from tilewright.task.input_spec import parse_inputs
from tilewright.task.load import load_task, module_source_from_text, task_from_module
from tilewright.task.module_source import build_module, init_args, load_namespace, make_inputs
from tilewright.task.task import ModuleSource

SOURCE = ModuleSource(REFERENCE, "Model", Path("ref.py"))


def broken(old: str, new: str) -> ModuleSource:
    assert old in REFERENCE
    return replace(SOURCE, source=REFERENCE.replace(old, new, 1))


def test_a_module_is_built_from_its_own_arguments() -> None:
    module = build_module(SOURCE)
    assert init_args(SOURCE) == (8, 2.0)
    assert not module.training
    (x,) = make_inputs(SOURCE)
    assert torch.equal(module(x), module.linear(x) * 2.0)


def test_a_seed_gives_the_same_module() -> None:
    first, second, other = (build_module(SOURCE, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_other_arguments_in_the_place_of_its_own() -> None:
    assert build_module(SOURCE, init_args=(3, 1.0)).linear.in_features == 3
    assert build_module(replace(SOURCE, init_args=(5, 1.0))).linear.in_features == 5
    (x,) = make_inputs(replace(SOURCE, inputs=parse_inputs("ones(2, 8)")))
    assert torch.equal(x, torch.ones(2, 8))


def test_on_the_meta_device_nothing_is_stored() -> None:
    module = build_module(SOURCE, init_args=(1 << 20, 1.0), device="meta")
    assert module.linear.weight.is_meta
    assert make_inputs(SOURCE, device="meta")[0].is_meta


def test_python_and_numpy_generators_are_seeded_and_restored() -> None:
    import random

    source = broken("torch.rand(4, 8)", "torch.full((1,), random.random()), torch.full((1,), numpy.random.rand())")
    source = replace(source, source="import random, numpy\n" + source.source)
    state = random.getstate()
    assert make_inputs(source, 1) == make_inputs(source, 1)
    assert make_inputs(source, 1) != make_inputs(source, 2)
    assert random.getstate() == state


@pytest.mark.parametrize("first_line", [1, 40])
def test_the_source_can_be_inspected(first_line: int) -> None:
    """Triton reads a kernel's source, the compiler a module's."""
    names = load_namespace(ModuleSource(MODULE, "ModelNew", Path("task.txt"), first_line=first_line))
    assert names["scale_kernel"].src.startswith("def scale_kernel(")
    assert inspect.getsource(names["ModelNew"]).startswith("class ModelNew")
    assert inspect.getsourcelines(names["ModelNew"])[1] == MODULE[: MODULE.index("class ")].count("\n") + first_line


def test_a_file_that_holds_the_source_is_its_file(tmp_path: Path) -> None:
    path = tmp_path / "ref.py"
    path.write_text(REFERENCE)
    (tmp_path / "beside_it.py").write_text("FACTOR = 3\n")
    source = ModuleSource(REFERENCE, "Model", path)
    assert inspect.getsourcefile(load_namespace(source)["Model"]) == str(path)
    importing = replace(source, source="from beside_it import FACTOR\n" + REFERENCE)
    assert load_namespace(importing)["FACTOR"] == 3
    assert str(tmp_path) not in sys.path


def test_what_a_source_prints_does_not_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    load_namespace(ModuleSource("print('hello')", "Model"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "hello\n"


@pytest.mark.parametrize(
    ("source", "said", "line"),
    [
        (broken("return self.linear(x)", "return self.linear(x"), "does not parse", 12),
        (
            broken("import torch\n", "import torch\nraise ValueError('no\\nway')\n"),
            "importing it raised ValueError: no",
            2,
        ),
        (broken("import torch\n", "import torch\nimport no_such_module_at_all\n"), "ModuleNotFoundError", 2),
        (broken("import torch\n", "import torch\nraise SystemExit(3)\n"), "SystemExit", 2),
        (broken("class Model(", "class Other("), "`Model` is not defined", 1),
        (broken("class Model(nn.Module)", "class Model"), "is no torch.nn.Module", 1),
        (broken("super().__init__()", "self.x = 1 / 0"), "constructor of `Model` raised ZeroDivisionError", 7),
        (broken("return [8, 2.0]", "return [8, 2.0][5]"), "`get_init_inputs` raised IndexError", 16),
        (broken("return [8, 2.0]", "return 8"), "`get_init_inputs` must return a list, not int", 1),
    ],
)
def test_a_module_that_cannot_be_built(source: ModuleSource, said: str, line: int) -> None:
    with pytest.raises(SourceError) as caught:
        build_module(source)
    assert said in caught.value.what
    assert str(caught.value.where) == f"ref.py:{line}" or str(caught.value.where).startswith(f"ref.py:{line}:")
    shifted = replace(source, first_line=101)
    with pytest.raises(SourceError) as caught:
        build_module(shifted)
    assert caught.value.where.line == line + 100


@pytest.mark.parametrize(
    ("source", "said", "line"),
    [
        (broken("def get_inputs", "def make_inputs"), "no function `get_inputs`", 1),
        (broken("torch.rand(4, 8)", "torch.rand(4, 'x')"), "`get_inputs` raised TypeError", 20),
        (broken("[torch.rand(4, 8)]", "None"), "must return a list, not NoneType", 1),
    ],
)
def test_inputs_that_cannot_be_made(source: ModuleSource, said: str, line: int) -> None:
    with pytest.raises(SourceError) as caught:
        make_inputs(source)
    assert said in caught.value.what
    assert caught.value.where.line == line


def test_arguments_that_the_constructor_does_not_take() -> None:
    with pytest.raises(InputMismatchError) as caught:
        build_module(SOURCE, init_args=(1, 2, 3))
    assert "3 arguments" in caught.value.what
    assert "Model(width, factor)" in (caught.value.hint or "")
    assert caught.value.where.line == 5


class TestInputsThatDoNotFit:
    def test_what_fits_is_silent(self) -> None:
        check_inputs(SOURCE)

    def test_wrong_sizes(self) -> None:
        with pytest.raises(InputMismatchError) as caught:
            check_inputs(replace(SOURCE, inputs=parse_inputs("rand(4, 7)")))
        assert "[4, 7] float32" in caught.value.what
        assert "`Model`" in caught.value.what
        assert "8" in caught.value.what
        assert "linear.weight [8, 8]" in (caught.value.hint or "")
        assert caught.value.where.line == 12

    def test_wrong_dtype(self) -> None:
        with pytest.raises(InputMismatchError, match="dtype"):
            check_inputs(replace(SOURCE, inputs=parse_inputs("randint(0, 3, (4, 8))")))

    def test_wrong_number(self) -> None:
        with pytest.raises(InputMismatchError, match="positional argument"):
            check_inputs(replace(SOURCE, inputs=parse_inputs("rand(4, 8), rand(4, 8)")))

    def test_values_that_shapes_alone_do_not_tell(self) -> None:
        """A pass without values fails here; the real one does not."""
        check_inputs(broken("return self.linear(x)", "return 0 if x.sum().item() < 0 else self.linear(x)"))

    def test_large_inputs_cost_nothing(self) -> None:
        check_inputs(replace(SOURCE, inputs=parse_inputs("rand(10000000, 8)")))

    def test_code_with_kernels_is_not_launched(self) -> None:
        source = ModuleSource(MODULE, "ModelNew", Path("task.txt"), init_args=(8, 2.0), first_line=10)
        check_inputs(replace(source, inputs=parse_inputs("rand(4, 8)")))
        asserting = MODULE.replace("x = self.linear(x)", "assert x.is_cuda\n        x = self.linear(x)")
        check_inputs(replace(source, source=asserting, inputs=parse_inputs("rand(4, 8)")))
        with pytest.raises(InputMismatchError) as caught:
            check_inputs(replace(source, inputs=parse_inputs("rand(4, 9)")))
        assert caught.value.where.line == line_of_forward()

    def test_a_live_module(self) -> None:
        task = task_from_module(nn.Linear(4, 4), [torch.rand(2, 5)], gpu="4090")
        with pytest.raises(InputMismatchError, match=r"\[2, 5\] float32"):
            check_inputs(task.reference)
        check_inputs(task_from_module(nn.Linear(5, 4), torch.rand(2, 5), gpu="4090").reference)


def line_of_forward() -> int:
    return MODULE[: MODULE.index("x = self.linear(x)")].count("\n") + 10


class TestLiveModules:
    def test_a_module_of_the_callers_own(self) -> None:
        class Local(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.rand(3))

            def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
                return x * self.weight * scale

        module, x = Local(), torch.rand(2, 3)
        task = task_from_module(module, [x, 2.0], gpu="h200", name="mine")
        assert (task.name, task.gpu.key, len(task.stages)) == ("mine", "h200", 4)
        built = build_module(task.reference)
        inputs = make_inputs(task.reference)
        assert torch.equal(built(*inputs), module(x, 2.0))
        assert not built.training
        assert module.training

    def test_other_seeds_shuffle_the_values(self) -> None:
        x = torch.arange(100)
        source = task_from_module(nn.Identity(), x, gpu="4090").reference
        (same,), (other,) = make_inputs(source), make_inputs(source, 1)
        assert torch.equal(same, x)
        assert not torch.equal(other, x)
        assert torch.equal(other.sort().values, x)

    def test_a_module_that_cannot_travel(self) -> None:
        module = nn.Linear(2, 2)
        module.lock = threading.Lock()
        with pytest.raises(InputMismatchError, match="cannot be sent"):
            task_from_module(module, [torch.rand(2, 2)], gpu="4090")

    def test_what_is_no_module(self) -> None:
        with pytest.raises(SourceError, match="Module is needed"):
            task_from_module(torch.relu, [torch.rand(2)], gpu="4090")


def test_source_of_a_documents_code_points_into_the_document(tmp_path: Path) -> None:
    path = tmp_path / "task.txt"
    path.write_text(DOCUMENT.replace("self.factor = factor", "self.factor = factor.real.imag.x"))
    task = load_task(path, init="[8, 2.0]", inputs="rand(4, 8)")
    with pytest.raises(SourceError) as caught:
        build_module(task.reference)
    text = path.read_text()
    assert str(caught.value.where) == f"{path}:{text[: text.index('self.factor = ')].count(chr(10)) + 1}"


def test_an_empty_source() -> None:
    with pytest.raises(TilewrightError, match="empty"):
        module_source_from_text(" \n", Path("x.py"))
