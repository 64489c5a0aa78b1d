"""Documents of our own: what is written is read again with the same meaning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_texts import DOCUMENT, MODULE, REFERENCE

from tilewright.errors import MissingReferenceError, SourceError
from tilewright.gpu.table import all_gpus, find_gpu
from tilewright.task.compose import compose_document, starting_code
from tilewright.task.document import read_document
from tilewright.task.load import load_task, task_from_module
from tilewright.task.stage import Stage, StageRules
from tilewright.task.stage_rules import FOCUS, default_rules, read_rules, rules_for, write_rules
from tilewright.task.task import OutputRules, Task
from tilewright.values.precision import PrecisionClass

ORDER = ["preamble", "gpu", "stage", "code", "metrics", "task", "api_constraints", "output_rules", "answer"]

names = st.text("abcdefgh_.0123456789 <>(),:é", min_size=1, max_size=30)
words = st.text("abcdefgh ()<>=_,.0123456789", min_size=1, max_size=40).map(str.strip).filter(bool)
numbers = st.integers(0, 10**12) | st.floats(0, 1e12, allow_nan=False)
small_sets = st.lists(st.integers(1, 64), max_size=4, unique=True).map(tuple)


@st.composite
def rules(draw: st.DrawFn) -> StageRules:
    stage = draw(st.sampled_from(Stage))
    # Conditions under one `when` stand together, as they do in any document.
    groups = draw(st.dictionaries(words, st.lists(words, min_size=1, max_size=3), max_size=3))
    return StageRules(
        stage=stage,
        focus=FOCUS[stage],
        num_warps=draw(small_sets),
        num_stages=draw(small_sets),
        max_autotune_configs=draw(st.none() | st.integers(1, 99)),
        conservative_baseline=draw(st.none() | st.tuples(st.integers(1, 32), st.integers(1, 8))),
        one_store_per_output=draw(st.booleans()),
        min_gain_percent=draw(st.integers(0, 50)) / 2,
        start_num_stages=draw(st.none() | st.integers(1, 8)),
        may_change_grid=draw(st.booleans()),
        may_retile=draw(st.booleans()),
        conditions=tuple((when, advice) for when, advices in groups.items() for advice in advices),
    )


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    given_rules = draw(rules())
    tail = draw(
        st.sampled_from(["", "# a comment\n", 'HELP = """\n```\nno\n```\n"""\n', "\n\n\n", "X = '# Target GPU'\n"])
    )
    return Task(
        name="any",
        reference=None,
        gpu=draw(st.sampled_from(all_gpus())),
        stages=(given_rules.stage,),
        rules=(given_rules,),
        precision=PrecisionClass.TF32,
        output_rules=OutputRules(
            forbidden_functions=draw(
                st.lists(st.sampled_from(["tl.tanh", "tl.x.y", "tl.mish"]), unique=True).map(tuple)
            ),
            fixed_order=draw(st.booleans()),
            no_test_code=draw(st.booleans()),
            one_store_per_output=given_rules.one_store_per_output,
            strict_stores=draw(st.booleans()),
        ),
        given_code=MODULE + tail,
        metrics=draw(st.dictionaries(names, st.dictionaries(names, numbers, max_size=4), max_size=3)),
    )


@given(tasks())
def test_what_is_written_is_read_again(task: Task) -> None:
    text = compose_document(task, task.stages[0])
    document = read_document(text)
    assert document.gpu == task.gpu
    assert replace(document.rules, text="") == task.rules[0]
    assert document.code == task.given_code
    assert document.metrics == task.metrics
    assert document.output_rules == task.output_rules
    kinds = list(dict.fromkeys(section.kind for section in document.sections))
    assert kinds == [kind for kind in ORDER if kind != "metrics" or task.metrics]


@given(rules())
def test_rules_are_read_as_they_were_written(written: StageRules) -> None:
    text = write_rules(written)
    assert replace(read_rules(text, path="x", first_line=1), text="") == written


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_rules_of_its_own(stage: Stage) -> None:
    own = default_rules(stage)
    assert own.stage is stage
    assert replace(read_rules(write_rules(own), path="x", first_line=1), text="") == own


def test_a_composed_document_composed_again_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "task.txt").write_text(DOCUMENT)
    first = compose_document(load_task(tmp_path / "task.txt"), Stage.MEMORY_ACCESS)
    (tmp_path / "again.txt").write_text(first)
    assert compose_document(load_task(tmp_path / "again.txt"), Stage.MEMORY_ACCESS) == first


def test_a_gpu_of_the_users_own_travels_as_its_file(tmp_path: Path) -> None:
    (tmp_path / "slow.toml").write_text('like = "4090"\nname = "slow"\nsm_count = 64\n')
    (tmp_path / "task.txt").write_text(DOCUMENT)
    task = load_task(tmp_path / "task.txt", gpu=str(tmp_path / "slow.toml"))
    assert read_document(compose_document(task, Stage.MEMORY_ACCESS)).gpu == task.gpu


def test_a_python_file_starts_from_its_reference(tmp_path: Path) -> None:
    path = tmp_path / "scale.py"
    path.write_text(REFERENCE.replace("import torch\n", "import torch  # Model\n", 1))
    task = load_task(path, gpu="h200")
    code = starting_code(task)
    assert "class ModelNew(nn.Module):" in code
    assert "get_inputs" not in code
    assert "get_init_inputs" not in code
    assert code.startswith("import torch  # Model\n")
    document = read_document(compose_document(task, Stage.BLOCK_TILING))
    assert document.gpu == find_gpu("h200")
    assert replace(document.rules, text="") == default_rules(Stage.BLOCK_TILING)
    assert document.metrics == {}


def test_other_code_comes_without_the_tasks_metrics(tmp_path: Path) -> None:
    (tmp_path / "task.txt").write_text(DOCUMENT)
    task = load_task(tmp_path / "task.txt")
    other = MODULE.replace("128", "256")
    assert read_document(compose_document(task, Stage.MEMORY_ACCESS, code=other)).metrics == {}
    with_metrics = compose_document(task, Stage.MEMORY_ACCESS, code=other, metrics={"k": {"m": 1.5}})
    assert read_document(with_metrics).metrics == {"k": {"m": 1.5}}


def test_what_cannot_be_composed() -> None:
    import torch

    task = task_from_module(torch.nn.Linear(4, 4), [torch.rand(2, 4)], gpu="4090")
    with pytest.raises(MissingReferenceError, match="no source"):
        compose_document(task, Stage.BLOCK_TILING)
    with pytest.raises(SourceError, match="ModelNew"):
        compose_document(task, Stage.BLOCK_TILING, code="x = 1\n")


def test_rules_of_both_stages_bind_each_of_them() -> None:
    both = replace(default_rules(Stage.MEMORY_AND_TUNING), num_warps=(2,), max_autotune_configs=1, min_gain_percent=5)
    memory = rules_for(Stage.MEMORY_ACCESS, both)
    tuning = rules_for(Stage.ADVANCED_MEMORY, both)
    assert (memory.num_warps, memory.one_store_per_output, memory.min_gain_percent) == ((), True, 5)
    assert (tuning.num_warps, tuning.max_autotune_configs, tuning.may_change_grid) == ((2,), 1, False)
    assert rules_for(Stage.BLOCK_TILING, both) == default_rules(Stage.BLOCK_TILING)
    assert rules_for(Stage.MEMORY_AND_TUNING, both) is both
