"""`--init` and `--inputs`: read as data, never run."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tilewright.errors import InputMismatchError, InputSpecError
from tilewright.task.input_spec import DTYPES, FLOATING, format_inputs, parse_init, parse_inputs
from tilewright.task.module_source import make_inputs
from tilewright.task.task import InputSpec, ModuleSource


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[64, 64, 3, 2, 1, 1, 0.5, 2]", (64, 64, 3, 2, 1, 1, 0.5, 2)),
        ("(64, 128, (1, 1, 1))", (64, 128, (1, 1, 1))),
        ("64, -1.5, 'same', None, True", (64, -1.5, "same", None, True)),
        ("[]", ()),
        ("()", ()),
        ("4", (4,)),
        ("[[1, 2], {'a': -3}]", ([1, 2], {"a": -3})),
        ("[inf, -inf, 1e-5]", (math.inf, -math.inf, 1e-5)),
    ],
)
def test_init(text: str, wanted: tuple[object, ...]) -> None:
    assert parse_init(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rand(128, 64, 128, 128)", [InputSpec("rand", (128, 64, 128, 128))]),
        ("rand((2, 3))", [InputSpec("rand", (2, 3))]),
        ("torch.randn(2, 3, dtype=torch.float16)", [InputSpec("randn", (2, 3), "float16")]),
        ("rand(size=(2, 3), dtype='half')", [InputSpec("rand", (2, 3), "float16")]),
        ("rand()", [InputSpec("rand", ())]),
        ("zeros(2), ones(3, dtype=int64), 0.5", [
            InputSpec("zeros", (2,)), InputSpec("ones", (3,), "int64"), InputSpec("literal", value=0.5),
        ]),
        ("full((2, 3), -0.5)", [InputSpec("full", (2, 3), value=-0.5)]),
        ("full((2,), 3, dtype=bfloat16)", [InputSpec("full", (2,), "bfloat16", value=3)]),
        ("full(size=2, fill_value=1.0)", None),
        ("randint(0, 10, (2, 3))", [InputSpec("randint", (2, 3), "int64", 0, 10)]),
        ("randint(10, (4,))", [InputSpec("randint", (4,), "int64", 0, 10)]),
        ("randint(low=-5, high=5, size=(4,), dtype=int32)", [InputSpec("randint", (4,), "int32", -5, 5)]),
        ("arange(10)", [InputSpec("arange", (10,), "int64", 0, 10, 1)]),
        ("arange(1, 10, 4, dtype=float32)", [InputSpec("arange", (3,), "float32", 1, 10, 4)]),
        ("bool(2, 2)", [InputSpec("bool", (2, 2), "bool")]),
        ("[rand(2), rand(3)]", [InputSpec("rand", (2,)), InputSpec("rand", (3,))]),
        ("None, True, (1, 2)", [InputSpec("literal", value=value) for value in (None, True, (1, 2))]),
    ],
)  # fmt: skip
def test_inputs(text: str, wanted: list[InputSpec] | None) -> None:
    if wanted is None:
        with pytest.raises(InputSpecError):
            parse_inputs(text)
    else:
        assert parse_inputs(text) == tuple(wanted)


@pytest.mark.parametrize(
    ("text", "said", "column"),
    [
        ("", "nothing is given", None),
        ("rand(2, 3", "never closed", 5),
        ("rand(2), uniform(3)", "unknown filler 'uniform'", 10),
        ("__import__('os').system('x')", "unknown filler", 1),
        ("open('/etc/passwd')", "unknown filler 'open'", 1),
        ("rand(2 ** 40)", "arithmetic", 6),
        ("rand(2), x", "the name 'x'", 10),
        ("rand(-1)", "a shape is made of integers", 1),
        ("rand(2.5)", "a shape is made of integers", 1),
        ("rand('2')", "a shape is made of integers", 1),
        ("rand(True)", "a shape is made of integers", 1),
        ("rand(99999999, 99999999, 99999999)", "more elements", 1),
        ("rand(1" + ", 1" * 20 + ")", "at most 16", 1),
        ("rand(99999999999999999999)", "64 bits", 6),
        ("rand(2, dtype=complex64)", "unknown dtype", 15),
        ("rand(2, dtype=int64)", "floating-point", 1),
        ("rand(2, device='cuda')", "no argument 'device'", 1),
        ("rand(*[2])", "`*`", 6),
        ("rand(**{})", "`**`", 1),
        ("randint(3)", "low, high and a shape", 1),
        ("randint(3, 3, (2,))", "low < high", 1),
        ("arange(0, 10, 0)", "steps of 0", 1),
        ("arange(10, 0)", "cannot go", 1),
        ("full((2,), 'x')", "a shape and a value", 1),
        ("bool(2, dtype=int8)", "no other dtype", 1),
        ("rand(2); rand(3)", "invalid syntax", 8),
        ("lambda: 1", "a lambda", 1),
        ("[x for x in (1,)]", "a comprehension", 1),
        ("(" * 300 + ")" * 300, "list of values", None),
    ],
)
def test_what_is_no_input(text: str, said: str, column: int | None) -> None:
    with pytest.raises(InputSpecError) as caught:
        parse_inputs(text)
    assert said in caught.value.what
    assert caught.value.where is not None
    assert caught.value.where.file == "--inputs"
    if column is not None:
        assert caught.value.where.column == column


@pytest.mark.parametrize(
    "text", ["rand(2)", "[f()]", "[a]", "[1 + 1]", "[b'x']", "[1j]", "{1, 2}", "[...]", "[-'a']", "["]
)
def test_what_is_no_init(text: str) -> None:
    with pytest.raises(InputSpecError) as caught:
        parse_init(text)
    assert str(caught.value.where).startswith("--init")


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
literals = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text()
specs = st.one_of(
    st.builds(InputSpec, st.sampled_from(["rand", "randn"]), shapes, st.sampled_from(sorted(FLOATING))),
    st.builds(InputSpec, st.sampled_from(["zeros", "ones"]), shapes, st.sampled_from(sorted(set(DTYPES.values())))),
    st.builds(InputSpec, st.just("bool"), shapes, st.just("bool")),
    st.builds(
        InputSpec, st.just("full"), shapes, st.just("float32"), value=st.floats(allow_nan=False) | st.integers(-9, 9)
    ),
    st.builds(InputSpec, st.just("randint"), shapes, st.just("int64"), st.integers(-9, 0), st.integers(1, 9)),
    st.builds(InputSpec, st.just("literal"), value=literals | st.lists(literals, max_size=3).map(tuple)),
)


@given(st.lists(specs, min_size=1, max_size=4))
def test_what_is_written_is_read_again(written: list[InputSpec]) -> None:
    assert parse_inputs(format_inputs(written)) == tuple(written)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_init, parse_inputs):
        try:
            parse(text)
        except InputSpecError as error:
            assert error.where is not None  # noqa: PT017


def made(text: str, seed: int = 0) -> list[object]:
    return make_inputs(ModuleSource("", "Model", inputs=parse_inputs(text)), seed)


def test_inputs_are_made_as_they_were_named() -> None:
    found = made("rand(2, 3), randint(3, 5, (100,)), full((2,), 0.25, dtype=float16), arange(1, 10, 4), bool(64), 7")
    assert found[0].shape == (2, 3)
    assert set(found[1].tolist()) == {3, 4}
    assert found[1].dtype == torch.int64
    assert found[2].tolist() == [0.25, 0.25]
    assert found[2].dtype == torch.float16
    assert found[3].tolist() == [1, 5, 9]
    assert 0 < found[4].sum() < 64
    assert found[5] == 7


def test_a_seed_gives_the_same_inputs_and_leaves_the_generators_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert torch.equal(made("rand(8)", 3)[0], made("rand(8)", 3)[0])
    assert not torch.equal(made("rand(8)", 3)[0], made("rand(8)", 4)[0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_input_that_does_not_fit_in_memory() -> None:
    with pytest.raises(InputMismatchError, match="cannot be made"):
        made("zeros(1000000000, 1000000000)")
