"""Structural edits one by one: what they write (golden files), and where they must not fire.

Golden files are written anew with TILEWRIGHT_UPDATE_GOLDEN=1; a missing file fails.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proposers.retune_cases import ALLOWED_ERROR, case, different, interpreted_errors, rules, task_of
from tilewright.gpu.table import find_gpu
from tilewright.proposers.retune import changes_between, retune, stage_findings
from tilewright.proposers.retune.edit import Context, Proposal, subject_of
from tilewright.proposers.retune.table import STRUCTURE, TUNING
from tilewright.proposers.retune.view import view_of
from tilewright.task.document import read_document

GOLDEN = Path(__file__).parent / "golden" / "retune"
EDITS = {edit.name: edit for edit in (*STRUCTURE, *TUNING)}

WRITTEN = (
    ("flatten_addresses", "pointwise_4d"),
    ("accumulate_tiles", "row_sum"),
    ("accumulate_tiles", "row_statistics"),
    ("coarsen_programs", "column_sum"),
    ("coarsen_programs", "softmax"),
    ("coarsen_programs", "layer_norm"),
    ("group_programs", "matmul"),
    ("turn_programs", "transpose"),
    ("even_masks", "matmul"),
    ("even_masks", "row_sum"),
    ("constant_sizes", "stencil"),
    ("cache_hints", "layer_norm"),
    ("retile", "pointwise_4d"),
    ("retile", "transpose"),
    ("warps_and_stages", "stencil"),
    ("insert_autotune", "softmax"),
)


def proposals(edit: str, source: str, stage: str = "memory_access") -> list[Proposal]:
    """What an edit makes of the first kernel of a module."""
    kernel = view_of(source).kernels[0].name
    subject = subject_of(source, kernel)
    assert subject is not None
    return list(EDITS[edit].propose(subject, Context(rules(stage), find_gpu("4090"))))


@pytest.mark.parametrize(("edit", "name"), WRITTEN, ids=[f"{edit}-{name}" for edit, name in WRITTEN])
def test_golden(edit: str, name: str) -> None:
    written = proposals(edit, case(name).source)[0].source
    path = GOLDEN / f"{edit}-{name}.txt"
    if os.environ.get("TILEWRIGHT_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written)
    assert path.exists(), f"{path.name} is missing: run once with TILEWRIGHT_UPDATE_GOLDEN=1 and read what it wrote"
    assert written == path.read_text()


@pytest.mark.parametrize(("edit", "name"), WRITTEN, ids=[f"{edit}-{name}" for edit, name in WRITTEN])
def test_an_edit_touches_what_its_row_says(edit: str, name: str) -> None:
    source = case(name).source
    for found in proposals(edit, source)[:3]:
        assert changes_between(source, found.source) <= EDITS[edit].changes


NOT_FIRED = (
    # edit, module, (old, new) replacements that take its condition away
    ("flatten_addresses", "stencil", ()),
    ("flatten_addresses", "pointwise_4d", (("n = index // (C * H * W)", "n = index // (C * H)"),)),
    ("flatten_addresses", "pointwise_4d", (("h * stride_h", "h * h * stride_h"),)),
    ("flatten_addresses", "pointwise_4d", ((" + w * stride_w", ""),)),
    ("flatten_addresses", "pointwise_4d", (("w = index % W", "w = index % H"),)),
    ("accumulate_tiles", "softmax", ()),
    ("accumulate_tiles", "layer_norm", ()),
    ("accumulate_tiles", "row_sum", (("total = 0.0", "total = 0"),)),
    ("accumulate_tiles", "row_sum", (("total = 0.0", "total = tl.load(x_ptr + row)"),)),
    ("accumulate_tiles", "row_sum", (("total += tl.sum(values, axis=0)", "total += tl.sum(values, axis=0) * 2"),)),
    ("accumulate_tiles", "row_sum", (("total += tl.sum(values, axis=0)", "total -= tl.sum(values, axis=0)"),)),
    ("accumulate_tiles", "row_sum", (("total += tl.sum(values", "total += tl.sum(values * total"),)),
    ("accumulate_tiles", "row_sum", (("total += tl.sum(values", "total += tl.max(values"),)),
    (
        "accumulate_tiles",
        "row_sum",
        (("mask=offsets < columns", "mask=helper(offsets) < columns"), ("values, axis", "helper(values), axis")),
    ),
    (
        "accumulate_tiles",
        "row_sum",
        (("tl.sum(values, axis=0)", "tl.sum(values, axis=0)\n        tl.store(out_ptr + i, total)"),),
    ),
    ("coarsen_programs", "stencil", ()),
    ("coarsen_programs", "matmul", ()),
    ("coarsen_programs", "row_sum", (("tl.store(out_ptr + row, total)", "tl.atomic_add(out_ptr + row, total)"),)),
    ("coarsen_programs", "row_sum", (("row * columns + offsets,", "row * columns + offsets[None],"),)),
    ("coarsen_programs", "softmax", (("tl.max(x, axis=0)", "helper(x)"),)),
    ("coarsen_programs", "row_sum", (("min(triton.next_power_of_2(columns), 128)", "65536"),)),  # spills alone
    ("coarsen_programs", "column_sum", (("if column >= columns:", "if column > columns:"),)),
    ("group_programs", "transpose", ()),
    ("turn_programs", "stencil", ()),
    ("even_masks", "stencil", (("triton.cdiv(total, block)", "triton.cdiv(total, block) + 1"),)),
    ("even_masks", "row_sum", (("range(0, tl.cdiv(columns, BLOCK))", "range(0, tl.cdiv(columns, BLOCK) + 1)"),)),
    ("constant_sizes", "softmax", (("def softmax_kernel", "def other"), ("@triton.jit", "@triton.jit(debug=True)"))),
    ("insert_autotune", "softmax", (("next_power_of_2(columns))", "next_power_of_2(columns), **{})"),)),
)


@pytest.mark.parametrize(("edit", "name", "changes"), NOT_FIRED)
def test_an_edit_declines(edit: str, name: str, changes: tuple[tuple[str, str], ...]) -> None:
    source = case(name).source
    for old, new in changes:
        source_after = source.replace(old, new)
        assert source_after != source
        source = source_after
    if view_of(source).kernels:
        assert proposals(edit, source) == []


SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 300)), min_size=4, max_size=6)


@pytest.mark.parametrize("name", ["row_sum", "row_statistics"])
@settings(max_examples=3, deadline=None)
@given(shapes=SHAPES)
def test_tiles_accumulate_to_what_their_reductions_add_up_to(name: str, shapes: list[tuple[int, int]]) -> None:
    source = case(name).source
    (found,) = proposals("accumulate_tiles", source)
    assert "_tile" in found.source
    outcomes = interpreted_errors([source, found.source], (), shapes, views=False)
    assert outcomes[0] == 0.0
    assert isinstance(outcomes[1], float)
    assert outcomes[1] <= ALLOWED_ERROR


def test_a_result_that_the_loop_reads_is_reduced_in_it() -> None:
    source = case("row_statistics").source.replace(
        "total + tl.sum(values, axis=1)", "total + tl.sum(values, axis=1) + largest"
    )
    (found,) = proposals("accumulate_tiles", source)
    assert found.description == "smallest reduced once, behind the loop"


def test_a_flat_address_keeps_the_given_form_for_other_layouts() -> None:
    """Both forms in one module: the launch's strides choose."""
    (found,) = proposals("flatten_addresses", case("pointwise_4d").source)
    given = case("pointwise_4d")
    outcomes = interpreted_errors([given.source, found.source], given.init, given.shapes, views=True)
    assert outcomes == [0.0, 0.0]


def test_a_wrong_condition_would_be_noticed() -> None:
    """The comparison can fail: the flat form taken for every layout is wrong for a transposed input."""
    (found,) = proposals("flatten_addresses", case("pointwise_4d").source)
    wrong = found.source.replace("if FLAT_INDEX:", "if FLAT_INDEX or True:")
    given = case("pointwise_4d")
    outcomes = interpreted_errors([given.source, wrong], given.init, given.shapes, views=True)
    assert outcomes[1] == "inf" or not isinstance(outcomes[1], float) or outcomes[1] > 1e-3


#: Small sizes for the documents' modules: constructor arguments and input shapes, one uneven and one even.
DOCUMENTS = {
    "000": ((3, 5, 4, 2, 0.5, 2.0), ((2, 3, 5, 5), (1, 3, 16, 16))),
    "001": ((3, 5, 3, 2, 1, 1, (1, 1, 1)), ((2, 3, 5, 9),)),
    "002": ((3, 5, 3, 2, 1, 1, 0.5, 2.0), ((2, 3, 5, 7),)),
    "003": ((48, 40), ((33, 48),)),
    "004": ((3, 5, 3, 2, 1, 1, 0.5), ((2, 3, 10, 9),)),
}


@pytest.mark.documents
@pytest.mark.parametrize("number", DOCUMENTS)
def test_documents_keep_their_meaning_and_their_stage(number: str, documents_dir: Path) -> None:
    (path,) = documents_dir.glob(f"{number}*.txt")
    document = read_document(path.read_text(), path)
    task = task_of(document.code, document.rules, metrics=document.metrics)
    candidates = retune(task, document.code, document.rules, ())
    assert len(candidates) >= 5
    assert not [c.description for c in candidates if stage_findings(document.code, c.source, document.rules)]
    init, shapes = DOCUMENTS[number]
    first = different(candidates)[:3]
    sources = [document.code, *(candidate.source for candidate in first)]
    outcomes = interpreted_errors(sources, init, shapes, views=False, change=number == "003")
    assert all(isinstance(outcome, float) and outcome <= ALLOWED_ERROR for outcome in outcomes), outcomes
