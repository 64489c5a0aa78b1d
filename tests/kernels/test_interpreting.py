"""What kernels mean in Triton's interpreter as it is refined, and the plain twins of what it lacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.kernels.properties import check_tests
from tilewright.toolchain.interpreting import libdevice, narrow
from tilewright.toolchain.interpreting.counters import Counter, counted
from tilewright.toolchain.interpreting.ptx import evaluate, parse
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError


def test_kernels_of_every_style() -> None:
    check_tests("language_in_interpreter.py")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bf16", torch.bfloat16),
        ("fp8e4nv", torch.float8_e4m3fn),
        ("fp8e5", torch.float8_e5m2),
        ("fp8e4b8", torch.float8_e4m3fnuz),
        ("fp8e5b16", torch.float8_e5m2fnuz),
    ],
)
def test_narrow_floats_are_those_of_torch(name: str, kind: torch.dtype) -> None:
    integer = torch.uint16 if name == "bf16" else torch.uint8
    codes = np.arange(1 << (16 if name == "bf16" else 8)).astype(np.uint16 if name == "bf16" else np.uint8)
    right = torch.from_numpy(codes).view(integer).view(kind).float().numpy()
    np.testing.assert_array_equal(narrow.widened(name, codes), right)
    generator = np.random.default_rng(0)
    values = (generator.standard_normal(4000) * 10.0 ** generator.uniform(-9, 1.5, 4000)).astype(np.float32)
    np.testing.assert_array_equal(
        narrow.widened(name, narrow.narrowed(name, values)), torch.from_numpy(values).to(kind).float().numpy()
    )


def test_counters_count_as_32_bits_do() -> None:
    first, second = next(iter(counted(2**31 - 2, 2**31 - 1, 1))), Counter(-7)
    assert first + 5 == -(2**31) + 3
    assert (second // 2, second % 2) == (-3, -1)
    assert type(second * 3) is Counter
    assert Counter(2**40, wide=True) + 1 == 2**40 + 1


def _f32(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32).view(np.uint32).astype(np.uint64)


@pytest.mark.parametrize(
    ("text", "given", "right"),
    [
        ("ex2.approx.f32 $0, $1;", 3.0, 8.0),
        ("lg2.approx.ftz.f32 $0, $1;", 8.0, 3.0),
        ("rsqrt.approx.f32 $0, $1;", 16.0, 0.25),
        ("sqrt.approx.ftz.f32 $0, $1;", 16.0, 4.0),
        ("rcp.approx.ftz.f32 $0, $1;", 4.0, 0.25),
        ("max.NaN.f32 $0, $1, 0f00000000;", math.nan, math.nan),
        ("max.f32 $0, $1, 0f00000000;", math.nan, 0.0),
        ("fma.rn.f32 $0, $1, $1, 0f3F800000;", 3.0, 10.0),
        ("add.sat.f32 $0, $1, $1;", 3.0, 1.0),
        ("{ .reg .b16 h; cvt.rn.f16.f32 h, $1; cvt.f32.f16 $0, h; }", 1.0002, 1.0),
        ("{ .reg .b32 t; cvt.rna.tf32.f32 t, $1; mov.b32 $0, t; }", 1.0 + 2.0**-11, 1.0 + 2.0**-10),
        ("{ .reg .b32 t; and.b32 t, $1, 0x7FFFFFFF; mov.b32 $0, t; }", -2.5, 2.5),
        ("{ .reg .b32 t; cvt.rn.bf16x2.f32 t, $1, $1; shl.b32 t, t, 16; mov.b32 $0, t; }", 1.001, 1.0),
        ("{ .reg .pred p; setp.ltu.f32 p, $1, 0.0; selp.f32 $0, 2.0, 3.0, p; }", -1.0, 2.0),
        ("cvt.rzi.f32.f32 $0, $1;", -2.75, -2.0),
    ],
)
def test_instructions(text: str, given: float, right: float) -> None:
    (bits,) = evaluate(text, "=f,f", [(_f32([given]), 32)], [32], 1)
    np.testing.assert_array_equal(bits.astype(np.uint32).view(np.float32), np.float32(right))


def test_the_hyperbolic_tangent_of_the_hardware_has_eleven_bits() -> None:
    x = np.linspace(0.1, 3, 100, dtype=np.float32)
    (bits,) = evaluate("tanh.approx.f32 $0, $1;", "=f,f", [(_f32(list(x)), 32)], [32], 1)
    error = np.abs(bits.astype(np.uint32).view(np.float32) - np.tanh(x)) / np.tanh(x)
    assert 2.0**-14 < error.max() < 2.0**-11


@pytest.mark.parametrize("text", ["bra done;", "ld.global.f32 $0, [$1];", "foo.f32 $0, $1;", "done: mov.f32 $0, $1;"])
def test_other_instructions_are_named(text: str) -> None:
    with pytest.raises(NotInterpretableError, match=text.split(";")[0].split()[0].replace(".", r"\.")):
        evaluate(text, "=f,f", [(_f32([1.0]), 32)], [32], 1)


def test_comments_and_scopes_are_no_instructions() -> None:
    statements, declared = parse("{ .reg .f32 a<2>; // one;\n /* two; */ mov.f32 a0, $1;\n @!p mov.f32 $0, a0; }")
    assert [(s.opcode, s.guard, s.negated) for s in statements] == [
        (("mov", "f32"), "", False),
        (("mov", "f32"), "p", True),
    ]
    assert declared == {"a0", "a1"}


@pytest.mark.parametrize(
    ("symbol", "given", "right"),
    [
        ("__nv_tanhf", [0.5], math.tanh(0.5)),
        ("__nv_powf", [2.0, 0.5], 2.0**0.5),
        ("__nv_erfinvf", [0.5], 0.4769362762),
        ("__nv_lgammaf", [4.5], math.lgamma(4.5)),
        ("__nv_fast_fdividef", [1.0, 4.0], 0.25),
        ("__nv_fmaf_rn", [2.0, 3.0, 1.0], 7.0),
        ("__nv_fadd_rz", [1.0, 2.0**-24 * 1.5], 1.0),
        ("__nv_fadd_ru", [1.0, 2.0**-30], 1.0 + 2.0**-23),
        ("__nv_float2int_rd", [-2.5], -3),
        ("__nv_normcdff", [0.0], 0.5),
        ("__nv_hypotf", [3.0, 4.0], 5.0),
    ],
)
def test_library_functions(symbol: str, given: list[float], right: float) -> None:
    kind = np.int32 if "2int" in symbol else np.float32
    found = libdevice.evaluate(symbol, [np.array([value], dtype=np.float32) for value in given], np.dtype(kind))
    assert found[0] == pytest.approx(right, rel=1e-6)


def test_an_unknown_library_function_is_named() -> None:
    with pytest.raises(NotInterpretableError, match="__nv_tanhh"):
        libdevice.evaluate("__nv_tanhh", [np.zeros(1, np.float32)], np.dtype(np.float32))


def test_every_function_of_the_installed_library_has_a_twin() -> None:
    import re
    from pathlib import Path

    from triton.language.extra.cuda import libdevice as installed

    symbols = set(re.findall(r"__nv_\w+", Path(installed.__file__).read_text()))
    missing = {symbol for symbol in symbols if libdevice._find(symbol.removeprefix("__nv_")) is None}
    assert missing <= {f"__nv_{name}" for name in ("rcp64h", "jn", "jnf", "yn", "ynf")}
