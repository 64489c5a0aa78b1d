"""Tasks out of files and command-line arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from task_texts import DOCUMENT, MODULE, REFERENCE

from tilewright.errors import (
    DocumentError,
    InputSpecError,
    MissingReferenceError,
    SourceError,
    TilewrightError,
    UnknownGpuError,
)
from tilewright.task.load import load_task, require_reference
from tilewright.task.precision import module_precision, source_precision, strictest_class
from tilewright.task.reply import python_block, read_candidate
from tilewright.task.stage import FULL_RUN, Stage
from tilewright.values.precision import PrecisionClass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task.txt").write_text(DOCUMENT)
    (tmp_path / "ref.py").write_text(REFERENCE)
    (tmp_path / "kernels.py").write_text(MODULE)
    return tmp_path


def test_a_document_alone(folder: Path) -> None:
    task = load_task(folder / "task.txt")
    assert task.document is not None
    assert (task.name, task.reference, task.given_code) == ("task", None, MODULE)
    assert task.stages == (Stage.MEMORY_ACCESS,)
    assert task.precision is PrecisionClass.TF32
    assert not task.has_reference
    with pytest.raises(MissingReferenceError) as caught:
        require_reference(task)
    assert "--reference" in (caught.value.hint or "")
    assert "--inputs" in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_a_document_with_a_reference(folder: Path) -> None:
    task = load_task(folder / "task.txt", reference=folder / "ref.py")
    assert require_reference(task).class_name == "Model"
    assert task.reference.path == folder / "ref.py"
    assert not task.given_code_is_specification
    assert task.stages == FULL_RUN
    assert [rules.stage for rules in task.rules] == list(FULL_RUN)
    assert task.rules[2] == task.document.rules


def test_a_document_whose_code_is_the_specification(folder: Path) -> None:
    task = load_task(folder / "task.txt", init="[8, 2.0]", inputs="rand(4, 8)")
    assert task.given_code_is_specification
    assert task.reference.class_name == "ModelNew"
    assert task.reference.init_args == (8, 2.0)
    assert task.reference.first_line == task.document.code_line
    assert task.stages == (Stage.MEMORY_ACCESS,)


@pytest.mark.parametrize(("given", "missing"), [({"init": "[1]"}, "--inputs"), ({"inputs": "rand(2)"}, "--init")])
def test_half_of_how_to_call_it(folder: Path, given: dict[str, str], missing: str) -> None:
    with pytest.raises(MissingReferenceError, match=f"{missing} is missing"):
        load_task(folder / "task.txt", **given)


@pytest.mark.parametrize(
    ("stage", "stages"),
    [
        ("document", (Stage.MEMORY_ACCESS,)),
        ("memory_access", (Stage.MEMORY_ACCESS,)),
        ("Advanced-Memory", (Stage.ADVANCED_MEMORY,)),
        ("all", FULL_RUN),
        (None, FULL_RUN),
    ],
)
def test_stages(folder: Path, stage: str | None, stages: tuple[Stage, ...]) -> None:
    assert load_task(folder / "task.txt", reference=folder / "ref.py", stage=stage).stages == stages


def test_a_documents_rules_bind_the_stages_that_it_joins(folder: Path) -> None:
    text = DOCUMENT.replace("Memory pattern for", "Memory pattern and parameter tuning for")
    (folder / "both.txt").write_text(text.replace("- Single", "- num_warps ∈ {1, 2}\n- Single"))
    task = load_task(folder / "both.txt", reference=folder / "ref.py", stage="advanced_memory")
    assert (task.stages, task.rules[0].num_warps) == ((Stage.ADVANCED_MEMORY,), (1, 2))
    task = load_task(folder / "both.txt", reference=folder / "ref.py")
    assert [rules.num_warps for rules in task.rules] == [(), (2, 4, 8), (), (1, 2)]


def test_a_python_file(folder: Path) -> None:
    task = load_task(folder / "ref.py", gpu="h200")
    assert (task.name, task.gpu.key, task.reference.class_name) == ("ref", "h200", "Model")
    assert task.given_code is None
    assert task.stages == FULL_RUN
    assert task.reference.init_args is None
    other = load_task(folder / "ref.py", gpu="4090", init="[16, 1.0]", inputs="rand(2, 16)", precision="IEEE")
    assert other.reference.init_args == (16, 1.0)
    assert other.reference.inputs is not None
    assert other.precision is PrecisionClass.IEEE


def test_a_python_file_of_kernels(folder: Path) -> None:
    task = load_task(folder / "kernels.py", gpu="4090", init="[8, 2.0]", inputs="rand(4, 8)")
    assert task.given_code_is_specification
    assert task.given_code == MODULE
    task = load_task(folder / "kernels.py", gpu="4090", reference=folder / "ref.py")
    assert not task.given_code_is_specification
    assert (task.given_code, task.reference.class_name) == (MODULE, "Model")


def test_a_file_is_known_by_what_is_in_it(folder: Path) -> None:
    (folder / "document.py").write_text(DOCUMENT)
    (folder / "module.txt").write_text(
        REFERENCE + f'\nDOC = """\n{MODULE.replace(chr(34) * 3, "")}[CURRENT CODE]\n"""\n'
    )
    assert load_task(folder / "document.py").document is not None
    assert load_task(folder / "module.txt", gpu="4090").document is None


def test_line_endings_and_a_mark_of_byte_order(folder: Path) -> None:
    (folder / "windows.txt").write_bytes(("\ufeff" + DOCUMENT.replace("\n", "\r\n")).encode())
    (folder / "windows.py").write_bytes(("\ufeff" + REFERENCE.replace("\n", "\r\n")).encode())
    task = load_task(folder / "windows.txt", reference=folder / "windows.py")
    assert task.document.text.encode() == (folder / "windows.txt").read_bytes()
    assert task.given_code == MODULE


@pytest.mark.parametrize(
    ("name", "content", "options", "error", "said"),
    [
        ("none.py", None, {}, TilewrightError, "no such file"),
        (".", None, {}, TilewrightError, "a folder"),
        ("bytes.txt", b"a\nb\xff", {}, TilewrightError, "UTF-8"),
        ("empty.py", b"", {}, SourceError, "empty"),
        ("broken.py", b"import torch\ndef f(:\n", {}, SourceError, "does not parse"),
        ("prose.txt", b"Please make my kernel fast.\n", {}, SourceError, "does not parse"),
        ("no_model.py", b"x = 1\n", {}, SourceError, "no class `Model`"),
        ("no_inputs.py", REFERENCE.replace("def get_inputs", "def f").encode(), {}, SourceError, "`get_inputs`"),
        ("no_code.txt", DOCUMENT.replace("```", "").encode(), {}, DocumentError, "no code block"),
        ("ref.py", None, {"gpu": "4900"}, UnknownGpuError, "no GPU named"),
        ("ref.py", None, {"stage": "faster"}, TilewrightError, "unknown stage"),
        ("ref.py", None, {"stage": "document"}, TilewrightError, "needs a document"),
        ("ref.py", None, {"precision": "fp8"}, TilewrightError, "unknown precision"),
        ("ref.py", None, {"init": "f()"}, InputSpecError, "a call is no literal"),
        ("ref.py", None, {"inputs": "f()"}, InputSpecError, "unknown filler"),
        ("task.txt", None, {"reference": Path("none.py")}, SourceError, "no such file"),
        ("task.txt", None, {"reference": Path("task.txt")}, SourceError, "is a document"),
        ("task.txt", None, {"reference": Path("kernels.py")}, SourceError, "no class `Model`"),
        ("ref.py", None, {"reference": Path("ref.py")}, SourceError, "no class `ModelNew`"),
    ],
)
def test_bad_input(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes | None,
    options: dict[str, object],
    error: type[TilewrightError],
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(error) as caught:
        load_task(Path(name), **options)
    assert said in caught.value.what
    assert caught.value.exit_code == 2
    if "UTF-8" in said or "parse" in said:
        assert caught.value.where.line == (1 if name == "prose.txt" else 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | st.text().map(str.encode) | st.sampled_from([DOCUMENT, REFERENCE]).map(str.encode))
def test_any_file_is_loaded_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    for read in (lambda: load_task(path, gpu="4090"), lambda: read_candidate(path)):
        try:
            read()
        except TilewrightError as error:
            assert error.exit_code == 2  # noqa: PT017


class TestReplies:
    REPLY = f"Here it is:\n\n```python\n{MODULE}```\nDone.\n"

    def test_the_one_block(self) -> None:
        assert python_block(self.REPLY) == (MODULE, 4)
        assert python_block(self.REPLY.replace("\n", "\r\n")) == (MODULE, 4)
        assert python_block("```json\n{}\n```\n" + self.REPLY) == (MODULE, 7)
        assert python_block(self.REPLY.replace("```python", "```Py title=x")) == (MODULE, 4)

    @pytest.mark.parametrize(
        ("text", "said", "line"),
        [
            ("I cannot help with that.", "no code block", None),
            ("", "no code block", None),
            (REPLY + REPLY, "2 Python blocks, the first in line 3", MODULE.count("\n") + 8),
            (REPLY.replace("python", "cpp"), "'cpp', not Python", 3),
            (REPLY.replace("python", ""), "names no language", 3),
            (REPLY[: REPLY.index("```\nDone")], "never closed", 3),
            (REPLY.replace("mask = offsets < count", "mask = <"), "does not parse", 13),
            ("```python\n\n```\n", "empty", 1),
        ],
    )
    def test_what_is_no_reply(self, text: str, said: str, line: int | None) -> None:
        with pytest.raises(SourceError) as caught:
            python_block(text, "reply.md")
        assert said in caught.value.what
        assert caught.value.where.file == "reply.md"
        assert caught.value.where.line == line

    @given(
        st.lists(st.sampled_from(["```python\n", "```\n", "````\n", "x = 1\n", "text\n", "```c\n", "\r\n"]) | st.text())
    )
    def test_any_reply_is_read_or_refused(self, parts: list[str]) -> None:
        try:
            code, line = python_block("".join(parts))
        except SourceError:
            return
        assert code.strip()
        assert line >= 2

    def test_a_candidates_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.py").write_text(MODULE)
        (tmp_path / "b.md").write_text(self.REPLY)
        assert read_candidate(tmp_path / "a.py") == (MODULE, 1)
        assert read_candidate(tmp_path / "b.md") == (MODULE, 4)
        (tmp_path / "c.py").write_text("def f(:")
        with pytest.raises(SourceError, match="does not parse"):
            read_candidate(tmp_path / "c.py")


class TestPrecision:
    @pytest.fixture(autouse=True)
    def _flags(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.products, self.convolutions = False, True
        monkeypatch.setattr("tilewright.task.precision._products_in_tf32", lambda: self.products)
        monkeypatch.setattr("tilewright.task.precision._convolutions_in_tf32", lambda: self.convolutions)

    def test_torchs_flags_decide(self) -> None:
        convolution = torch.nn.Conv2d(2, 2, 1)
        linear = torch.nn.Linear(2, 2)
        assert module_precision(convolution) is PrecisionClass.TF32
        assert module_precision(linear) is PrecisionClass.IEEE
        assert module_precision(torch.nn.Sequential(convolution, linear)) is PrecisionClass.IEEE
        self.products = True
        assert module_precision(torch.nn.Sequential(convolution, linear)) is PrecisionClass.TF32
        assert source_precision(REFERENCE) is PrecisionClass.TF32
        assert source_precision("y = a @ b") is PrecisionClass.TF32
        self.products = False
        assert source_precision("y = a @ b") is PrecisionClass.IEEE

    def test_without_products_there_is_nothing_to_round(self) -> None:
        self.products = True
        assert module_precision(torch.nn.ReLU()) is PrecisionClass.IEEE

    def test_convolutions_do_not_stay_native_without_a_word(self) -> None:
        both, one = ["aten.conv2d.default", "aten.linear.default"], ["aten.conv2d.default"]
        (said,) = strictest_class(PrecisionClass.IEEE, both)
        assert "not for matrix products" in said
        assert "--precision tf32" in said
        assert not strictest_class(PrecisionClass.TF32, both)
        assert not strictest_class(PrecisionClass.IEEE, one)  # torch permits more: it was asked for
        self.convolutions = False
        assert "not permitted for convolutions" in strictest_class(PrecisionClass.IEEE, one)[0]
        assert not strictest_class(PrecisionClass.IEEE, ["aten.linear.default"])

    def test_halves(self) -> None:
        assert module_precision(torch.nn.Linear(2, 2).half()) is PrecisionClass.FP16
        assert module_precision(torch.nn.Linear(2, 2).bfloat16()) is PrecisionClass.BF16
        assert source_precision("x = torch.rand(2, dtype=torch.bfloat16)") is PrecisionClass.BF16

    def test_the_real_flags_can_be_read(self) -> None:
        from tilewright.task import precision

        assert precision._flag(torch.backends.cuda.matmul) in (True, False)
        assert precision._flag(torch.backends.cudnn) in (True, False)
