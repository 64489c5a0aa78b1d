"""The document reader: the documents as they are, and documents in other shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from task_texts import DOCUMENT, MODULE

from tilewright.errors import DocumentError, SourceError, TilewrightError, UnknownGpuError
from tilewright.gpu.table import find_gpu
from tilewright.task.document import looks_like_document, read_document, write_document
from tilewright.task.stage import Stage
from tilewright.task.task import Document
from tilewright.values.precision import PrecisionClass

MISSING = ("tl.tanh", "tl.sigmoid", "tl.gelu", "tl.silu", "tl.softmax", "tl.mish")
SHORT = {
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm",
    "launch__grid_size": "grid",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram",
    "lts__t_sector_hit_rate.pct": "l2",
}
#: number -> (stage, line of the code, kernel, metrics in the order of SHORT)
FACTS = {
    "000": (Stage.MEMORY_ACCESS, 57, "fused_add_min_gelu_mul_kernel", (12.46, 270400, 81.5, 93.26, 50.01)),
    "001": (Stage.MEMORY_ACCESS, 57, "fused_min_sum_gelu_bias_kernel", (9.25, 4096, 32.46, 21.23, 87.51)),
    "002": (
        Stage.ADVANCED_MEMORY,
        54,
        "fused_mish_add_hardtanh_scale_kernel_optimized",
        (16.64, 131072, 80.33, 87.25, 50.0),
    ),
    "003": (Stage.MEMORY_AND_TUNING, 52, "fused_linear_bn_gelu_relu_kernel", (11.48, 16384, 33.17, 49.91, 55.49)),
    "004": (Stage.MEMORY_ACCESS, 57, "fused_multiply_gap_kernel_optimized", (3.78, 32, 8.33, 88.71, 30.34)),
}

pytestmark = pytest.mark.filterwarnings("error")


def read_seed(folder: Path, number: str) -> tuple[str, Document]:
    path = next(folder.glob(f"{number}_*.txt"))
    text = path.read_bytes().decode()
    return text, read_document(text, path)


@pytest.mark.documents
@pytest.mark.parametrize("number", FACTS)
class TestTheFive:
    def test_the_bytes_come_back(self, documents_dir: Path, number: str) -> None:
        text, document = read_seed(documents_dir, number)
        assert write_document(document) == text

    def test_every_section_is_known(self, documents_dir: Path, number: str) -> None:
        _, document = read_seed(documents_dir, number)
        kinds = list(dict.fromkeys(section.kind for section in document.sections))
        assert kinds == [
            "preamble", "gpu", "stage", "code", "metrics", "task", "api_constraints", "output_rules", "answer",
        ]  # fmt: skip

    def test_gpu(self, documents_dir: Path, number: str) -> None:
        _, document = read_seed(documents_dir, number)
        # Both header forms say the same: the table's figures are the documents'.
        assert document.gpu == find_gpu("4090")
        assert len(document.gpu_figures) == (0 if number == "003" else 16)

    def test_stage_and_rules(self, documents_dir: Path, number: str) -> None:
        _, document = read_seed(documents_dir, number)
        rules = document.rules
        assert rules.stage is FACTS[number][0]
        tuning = rules.stage is not Stage.MEMORY_ACCESS
        assert rules.num_warps == ((4, 8) if tuning else ())
        assert rules.num_stages == ((2, 3) if tuning else ())
        assert rules.conservative_baseline == ((4, 2) if tuning else None)
        assert rules.max_autotune_configs == {"002": 3, "003": 4}.get(number)
        assert rules.one_store_per_output is (number != "002")
        assert rules.start_num_stages == (None if tuning else 2)
        assert rules.min_gain_percent == 2
        assert rules.may_change_grid is (number != "002")
        assert rules.may_retile is (number != "002")
        assert rules.text in document.text

    def test_conditions(self, documents_dir: Path, number: str) -> None:
        _, document = read_seed(documents_dir, number)
        conditions = document.rules.conditions
        if document.rules.stage is Stage.MEMORY_ACCESS:
            assert conditions == ()
            return
        low = "register pressure LOW (regs < 96, no spill)"
        high = "register pressure HIGH (regs > 128 or occupancy_limit_registers)"
        many = "multi-input fusion (3+ distinct loads)"
        assert [when for when, _ in conditions] == [low, low, high, high, many, many]
        assert conditions[0][1] == "Try num_warps=8 for compute-bound fusion"
        assert conditions[-1][1] == "num_warps=4 often better than 8"

    def test_code_and_its_line(self, documents_dir: Path, number: str) -> None:
        text, document = read_seed(documents_dir, number)
        assert document.code_line == FACTS[number][1]
        assert text.split("\n")[document.code_line - 1] == document.code.split("\n")[0]
        assert document.code in text
        assert text.split(document.code)[1].startswith("```\n\n[NCU PROFILING METRICS]")

    def test_metrics(self, documents_dir: Path, number: str) -> None:
        _, document = read_seed(documents_dir, number)
        _, _, kernel, values = FACTS[number]
        assert document.metrics == {kernel: dict(zip(SHORT, values, strict=True))}

    def test_constraints_and_output_rules(self, documents_dir: Path, number: str) -> None:
        _, document = read_seed(documents_dir, number)
        assert document.output_rules.forbidden_functions == MISSING
        assert document.output_rules.fixed_order
        assert document.output_rules.no_test_code
        if number == "003":
            assert len(document.api_constraints) == 8
            assert document.api_constraints[2] == "BLOCK sizes MUST be power-of-2: 16, 32, 64, 128, 256"
        else:
            assert document.api_constraints == (f"Triton has NO: {', '.join(MISSING)}",)

    @pytest.mark.parametrize("ending", ["\r\n", "\r"])
    def test_other_line_endings(self, documents_dir: Path, number: str, ending: str) -> None:
        text, document = read_seed(documents_dir, number)
        other = read_document(text.replace("\n", ending), document.path)
        assert write_document(other) == text.replace("\n", ending)
        assert meaning(other) == meaning(document)

    def test_trailing_spaces(self, documents_dir: Path, number: str) -> None:
        text, document = read_seed(documents_dir, number)
        spaced = "".join(f"{line} \t\n" for line in text.split("\n"))
        other = read_document(spaced, document.path)
        assert write_document(other) == spaced
        assert other.gpu == document.gpu
        assert other.metrics == document.metrics
        assert other.rules.conditions == document.rules.conditions
        assert other.output_rules == document.output_rules
        assert other.code_line == document.code_line

    def test_sections_in_another_order(self, documents_dir: Path, number: str) -> None:
        _, document = read_seed(documents_dir, number)
        sections = [section.text.rstrip("\n") + "\n\n" for section in document.sections]
        # The answer's block belongs behind the output rules; everything else may stand anywhere.
        shuffled = "".join([sections[0], *reversed(sections[1:-2]), *sections[-2:]])
        other = read_document(shuffled, document.path)
        assert write_document(other) == shuffled
        assert meaning(other)[:-1] == meaning(document)[:-1]

    def test_without_the_optional_sections(self, documents_dir: Path, number: str) -> None:
        _, document = read_seed(documents_dir, number)
        kept = "".join(section.text for section in document.sections if section.kind in ("gpu", "stage", "code"))
        other = read_document(kept)
        assert other.metrics == {}
        assert other.api_constraints == ()
        assert other.output_rules == replace(document.output_rules, forbidden_functions=())
        assert (other.gpu, other.code, other.rules.stage) == (document.gpu, document.code, document.rules.stage)

    def test_every_truncation_is_read_or_refused(self, documents_dir: Path, number: str) -> None:
        text, _ = read_seed(documents_dir, number)
        for end in range(0, len(text), 97):
            assert_read_or_refused(text[:end])


def meaning(document: Document) -> tuple[object, ...]:
    """All that a document says, its place in the file aside."""
    rules = document.rules
    return (
        document.gpu,
        dict(document.gpu_figures),
        (rules.stage, rules.focus, rules.num_warps, rules.num_stages, rules.conditions, rules.conservative_baseline),
        document.code,
        document.metrics,
        document.output_rules,
        set(document.api_constraints),
        document.code_line,
    )


def assert_read_or_refused(text: str) -> None:
    try:
        document = read_document(text)
    except TilewrightError as error:
        assert error.what  # noqa: PT017
        return
    assert write_document(document) == text


def refused(text: str, path: Path = Path("task.txt")) -> TilewrightError:
    with pytest.raises(TilewrightError) as caught:
        read_document(text, path)
    assert caught.value.where is not None
    assert caught.value.where.file == str(path)
    assert caught.value.exit_code == 2
    return caught.value


def changed(old: str, new: str) -> str:
    assert old in DOCUMENT
    return DOCUMENT.replace(old, new, 1)


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


class TestBadDocuments:
    def test_no_code_section(self) -> None:
        error = refused(changed("[CURRENT CODE]", "[OTHER CODE]"))
        assert isinstance(error, DocumentError)
        assert "no code block" in error.what

    def test_no_block_in_the_code_section(self) -> None:
        error = refused(changed(f"```python\n{MODULE}```\n", ""))
        assert isinstance(error, DocumentError)
        assert "no code block" in error.what
        assert error.where.line == line_of(DOCUMENT, "[CURRENT CODE]")

    def test_a_block_that_is_never_closed(self) -> None:
        text = DOCUMENT[: DOCUMENT.index("```\n\n[NCU")]
        error = refused(text)
        assert isinstance(error, DocumentError)
        assert "never closed" in error.what
        assert error.where.line == line_of(text, "```python")

    def test_two_blocks(self) -> None:
        error = refused(changed("[NCU PROFILING METRICS]", "```python\npass\n```\n\n[NCU PROFILING METRICS]"))
        assert isinstance(error, DocumentError)
        assert "two code blocks" in error.what

    def test_an_empty_block(self) -> None:
        error = refused(changed(MODULE, "\n"))
        assert isinstance(error, DocumentError)
        assert "empty" in error.what

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("    mask = offsets < count", "    mask = offsets <", "invalid syntax"),
            ("    mask = offsets < count", "   mask = offsets < count", "unindent"),
            ("    mask = offsets < count", "    mask = offsets < count\0", "null bytes"),
        ],
    )
    def test_code_that_does_not_parse(self, old: str, new: str, said: str) -> None:
        text = changed(old, new)
        error = refused(text)
        assert isinstance(error, SourceError)
        assert said in error.what
        wanted = line_of(DOCUMENT, "import torch\n") if "null" in said else line_of(DOCUMENT, old)
        assert error.where.line == wanted

    def test_no_model_new(self) -> None:
        error = refused(changed("class ModelNew", "class Faster"))
        assert isinstance(error, SourceError)
        assert "no class `ModelNew`" in error.what
        assert "Faster" in (error.hint or "")
        assert error.where.line == line_of(DOCUMENT, "import torch\n")

    @pytest.mark.parametrize(
        ("old", "new", "said", "at"),
        [
            ("32,\n", "32\n", "Expecting ',' delimiter", '"lts__'),
            ("50.5", "NaN", "NaN is no JSON number", "NaN"),
            ("50.5", "-Infinity", "-Infinity is no JSON number", "-Infinity"),
            ("50.5", "1e999", "too large", '"lts__'),
            ("50.5", '"50.5"', "is no number", '"lts__'),
            ("50.5", "null", "is no number", '"lts__'),
            ("50.5", "[50.5]", "is no number", '"lts__'),
            ("50.5", "true", "is no number", '"lts__'),
            ('"lts__t_sector_hit_rate.pct"', '"launch__grid_size"', "appears twice", '"launch__grid_size": 50.5'),
            ("50.5\n  }\n}", '50.5\n  },\n  "scale_kernel": {}\n}', "appears twice", '"scale_kernel": {}'),
            ("50.5\n  }\n}", "50.5\n  }\n}\n}", "more after the object", "}\n\n**Task**"),
            ('{\n  "scale_kernel"', '[{\n  "scale_kernel"', "Expecting ',' delimiter", "**Task**"),
            ('{\n    "launch__grid_size"', '3, "x": {\n    "launch__grid_size"', "are no object", '"scale_kernel"'),
            ("32", "[" * 100000, "nested too deeply", '{\n  "scale_kernel"'),
        ],
    )
    def test_metrics_that_are_not_as_expected(self, old: str, new: str, said: str, at: str) -> None:
        head, tail = DOCUMENT.split("[NCU PROFILING METRICS]")
        assert old in tail
        text = head + "[NCU PROFILING METRICS]" + tail.replace(old, new, 1)
        error = refused(text)
        assert isinstance(error, DocumentError)
        assert "metrics are not JSON" in error.what
        assert said in error.what
        assert error.where.line == text[: text.index(at, len(head))].count("\n") + 1

    def test_metrics_that_are_missing_or_prose(self) -> None:
        text = DOCUMENT[: DOCUMENT.index('{\n  "scale')] + "**Task**: faster\n"
        assert "the section is empty" in refused(text).what
        assert "Expecting value" in refused(text.replace("**Task**", "none were taken\n**Task**")).what

    def test_prose_after_the_metrics_is_kept(self) -> None:
        text = changed("**Task**", "Taken with locked clocks.\n\n**Task**")
        document = read_document(text)
        assert document.metrics["scale_kernel"]["launch__grid_size"] == 32
        assert write_document(document) == text

    def test_metrics_in_a_block(self) -> None:
        head, tail = DOCUMENT.split("[NCU PROFILING METRICS]\n")
        metrics, rest = tail.split("\n**Task**")
        text = f"{head}[NCU PROFILING METRICS]\n```json\n{metrics}```\n\n**Task**{rest}"
        assert read_document(text).metrics == read_document(DOCUMENT).metrics

    def test_an_unknown_gpu(self) -> None:
        error = refused(changed("4090", "4900"))
        assert isinstance(error, UnknownGpuError)
        assert "rtx-4090" in (error.hint or "")
        assert error.where.line == 1

    def test_an_unknown_gpu_in_the_long_form(self) -> None:
        text = changed("# Target GPU: 4090", "\n# Target GPU\nGPU Name: RTX 4900\nArchitecture: Ada Lovelace")
        error = refused(text)
        assert isinstance(error, UnknownGpuError)
        assert error.where.line == 3

    def test_no_gpu(self) -> None:
        for text in (changed("# Target GPU: 4090\n", ""), changed("# Target GPU: 4090", "# Target GPU:")):
            error = refused(text)
            assert isinstance(error, DocumentError)
            assert "--gpu" in (error.hint or "")

    @pytest.mark.parametrize("figure", ["many", "-3", "0", "1.5", "12.5.3", "9" * 40])
    def test_a_figure_that_is_no_number(self, figure: str) -> None:
        text = changed("# Target GPU: 4090", f"# Target GPU\nGPU Name: 4090\n• Number of SMs: {figure}")
        error = refused(text)
        assert isinstance(error, DocumentError)
        assert "Number of SMs" in error.what
        assert error.where.line == 3

    def test_no_stage(self) -> None:
        error = refused(changed("Focus: Memory pattern for fused operations.\n", ""))
        assert isinstance(error, DocumentError)
        assert "--stage" in (error.hint or "")
        assert error.where.line == line_of(DOCUMENT, "[OPTIMIZATION STAGE]")

    def test_an_unknown_stage(self) -> None:
        error = refused(changed("Memory pattern for fused operations.", "Better karma."))
        assert isinstance(error, DocumentError)
        assert "karma" in error.what
        assert error.where.line == line_of(DOCUMENT, "Focus:")


class TestWhatAUserMayWrite:
    def test_other_figures_than_the_tables_count(self) -> None:
        text = changed(
            "# Target GPU: 4090",
            "# Target GPU\nGPU Name: 4090\n• Number of SMs: 100\n• FP16 Tensor Core TFLOPS: 130 with dense\n"
            "• L2 cache (global, all SM shared): 64 MB\n• Compute Capability: 8.6\n• Favourite Colour: green",
        )
        document = read_document(text, Path("task.txt"))
        assert (document.gpu.sm_count, document.gpu.capability) == (100, 86)
        assert document.gpu.tensor_tflops[PrecisionClass.FP16] == 130
        assert document.gpu.l2_bytes == 64 * 1024 * 1024
        assert document.gpu.max_warps_per_sm == 48
        assert document.gpu.sources["sm_count"] == "the document task.txt"
        assert document.gpu_figures["Favourite Colour"] == "green"

    def test_a_gpu_file_beside_the_document(self, tmp_path: Path) -> None:
        (tmp_path / "slow.toml").write_text('like = "4090"\nname = "slow"\nsm_count = 64\n')
        document = read_document(changed("4090", "slow.toml"), tmp_path / "task.txt")
        assert (document.gpu.name, document.gpu.sm_count) == ("slow", 64)

    def test_gpu_and_stage_from_the_command(self) -> None:
        document = read_document(
            changed("4090", "4900").replace("Focus: Memory pattern", "Focus: Good karma"),
            gpu=find_gpu("h200"),
            stage=Stage.BLOCK_TILING,
        )
        assert document.gpu.key == "h200"
        assert document.rules.stage is Stage.BLOCK_TILING

    def test_unknown_sections_are_kept(self) -> None:
        text = changed("**Task**", "[HISTORY]\n- tried: nothing\n\n# Notes\nnone\n\n## More\n\n**Task**")
        document = read_document(text)
        assert [section.kind for section in document.sections].count("unknown") == 2
        assert write_document(document) == text

    def test_a_mark_of_byte_order_is_kept(self) -> None:
        document = read_document("\ufeff" + DOCUMENT)
        assert write_document(document) == "\ufeff" + DOCUMENT
        assert document.gpu.key == "rtx-4090"

    def test_headings_inside_the_code_are_code(self) -> None:
        text = changed("import torch.nn as nn", "import torch.nn as nn\n# Target GPU: none\n\n# Notes\n[CODE] = [[1]]")
        document = read_document(text)
        assert "# Target GPU: none" in document.code
        assert document.gpu.key == "rtx-4090"

    def test_a_fence_inside_a_docstring_is_code(self) -> None:
        text = changed("import torch.nn as nn", 'import torch.nn as nn\nHELP = """\n    ```\n    x\n    ```\n"""')
        assert "    ```\n    x\n" in read_document(text).code


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    assert_read_or_refused(text)
    looks_like_document(text)


LINES = DOCUMENT.splitlines(keepends=True)
PIECES = st.sampled_from(
    [*LINES, "```\n", "```python\n", "````\n", "{\n", "}\n", '"a": 1,\n', "NaN\n", "[CURRENT CODE]\n", "\r", "\x0c\n"]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(LINES)), st.integers(0, 4), st.lists(PIECES | st.text(), max_size=3))))
def test_any_damaged_document_is_read_or_refused(edits: list[tuple[int, int, list[str]]]) -> None:
    lines = list(LINES)
    for start, count, new in edits:
        lines[start : start + count] = new
    assert_read_or_refused("".join(lines))


@pytest.mark.parametrize(
    "unit", [" ", "\t", "\n", " \n", "- a ", "#", "`", "9", "max 9", "Focus:", "IF a", "{", '"a":', ": ", "* * "]
)
@pytest.mark.parametrize(
    "place", ["# Target GPU", "Focus: ", "- Single", "{\n", "## OUTPUT", "- tl.tanh", "1. Imports"]
)
def test_long_runs_are_no_trap(place: str, unit: str) -> None:
    """A pattern that tried a run from each of its places would not end here."""
    text = DOCUMENT.replace(place, f"{place}{unit * 100_000}x\n", 1)
    assert_read_or_refused(text)
    assert_read_or_refused(DOCUMENT.replace(place, f"{unit * 100_000}{place}", 1))
