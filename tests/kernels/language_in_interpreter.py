"""Kernels of every style in Triton's interpreter as it is refined, each beside what PyTorch computes.

Run by `test_interpreting.py` in a process of its own: the interpreter is chosen before triton is imported.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import functools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.language import program_id as which
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as cuda_libdevice
from triton.language.extra.libdevice import expm1
from triton.tools.tensor_descriptor import TensorDescriptor

from tilewright.gate.inside import runtime
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError
from tilewright.toolchain.triton_compat import refine_interpreter

refine_interpreter()
LOG2E = tl.constexpr(1.4426950408889634)
SCALE: tl.constexpr = 3


def close_product(got: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """A sum that cancels is as wrong as the terms that it sums."""
    terms = left.abs() @ right.abs()
    close(got.double() / terms, left @ right / terms)


def close(got: torch.Tensor, right: torch.Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(got, right, rtol=tolerance, atol=tolerance)


# --- numbers -------------------------------------------------------------------------------------------------


@triton.jit
def leaky(x_ptr, y_ptr, n, slope, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n, other=0.0)
    y = tl.where(x > 0, x, x * 0.01)
    y = y + 1 - x / 4 + tl.maximum(x, 0.5) - tl.abs(x) * slope + tl.full([BLOCK], 2.5, x.dtype)
    tl.store(y_ptr + o, -y, mask=o < n)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_floats_are_numbers(kind: torch.dtype) -> None:
    x = torch.randn(100).to(kind)
    y = torch.empty_like(x)
    leaky[(4,)](x, y, 100, 0.5, BLOCK=32)
    w = x.float()
    right = F.leaky_relu(w) + 1 - w / 4 + w.clamp(min=0.5) - w.abs() * 0.5 + 2.5
    close(y.float(), -right, {torch.bfloat16: 5e-2, torch.float16: 5e-3, torch.float32: 1e-6}[kind])


@triton.jit
def cast(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    tl.store(y_ptr + o, tl.load(x_ptr + o, mask=o < n).to(y_ptr.dtype.element_ty), mask=o < n)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_casts_are_those_of_torch(kind: torch.dtype) -> None:
    x = torch.cat([torch.randn(200) * 10 ** torch.linspace(-6, 1.5, 200), torch.tensor([0.0, -0.0, math.nan, 1.0625])])
    y = torch.empty(x.numel(), dtype=kind)
    cast[(1,)](x, y, x.numel(), BLOCK=256)
    torch.testing.assert_close(y.float(), x.to(kind).float(), rtol=0, atol=0, equal_nan=True)
    back = torch.empty_like(x)
    cast[(1,)](y, back, x.numel(), BLOCK=256)
    torch.testing.assert_close(back, y.float(), rtol=0, atol=0, equal_nan=True)


def test_casts_saturate() -> None:
    x = torch.tensor([1e6, -1e6, math.inf, math.nan])
    y = torch.empty(4, dtype=torch.float8_e4m3fn)
    cast[(1,)](x, y, 4, BLOCK=4)
    assert y.float().tolist()[:3] == [448.0, -448.0, 448.0]
    z = torch.empty(4, dtype=torch.int32)
    cast[(1,)](x * 1e6, z, 4, BLOCK=4)
    assert z.tolist() == [2**31 - 1, -(2**31), 2**31 - 1, 0]


@triton.jit
def whole_numbers(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n, other=1)
    a = x * 1103515245 + 12345
    b = x // 7
    c = x % 7
    d = (x >> 3) ^ (x << 2) | (x & 12)
    e = tl.umulhi(x.to(tl.uint32, bitcast=True), 3000000000)
    f = x.to(tl.float32, bitcast=True).to(tl.int32, bitcast=True)
    tl.store(y_ptr + o, a, mask=o < n)
    tl.store(y_ptr + n + o, b * 100 + c, mask=o < n)
    tl.store(y_ptr + 2 * n + o, d, mask=o < n)
    tl.store(y_ptr + 3 * n + o, e.to(tl.int32, bitcast=True), mask=o < n)
    tl.store(y_ptr + 4 * n + o, f, mask=o < n)


def test_integers_wrap_and_divide_toward_zero() -> None:
    x = torch.tensor([5, -5, 2147483647, -2147483648, 100, -100, 7, -1], dtype=torch.int32)
    y = torch.empty(5, 8, dtype=torch.int32)
    whole_numbers[(1,)](x, y, 8, BLOCK=8)
    w = x.long()

    def wrapped(values: torch.Tensor) -> list[int]:
        return (((values + 2**31) % 2**32) - 2**31).tolist()

    quotient = torch.div(w, 7, rounding_mode="trunc")
    assert y[0].long().tolist() == wrapped(w * 1103515245 + 12345)
    assert y[1].long().tolist() == wrapped(quotient * 100 + torch.fmod(w, 7))
    assert y[2].tolist() == ((x >> 3) ^ (x << 2) | (x & 12)).tolist()
    assert (y[3].long() % 2**32).tolist() == [(v % 2**32) * 3000000000 >> 32 for v in x.tolist()]
    assert torch.equal(y[4], x)


# --- python's and triton's meaning ---------------------------------------------------------------------------


@triton.jit
def logic(x_ptr, y_ptr, n, scale, count, flag, CAUSAL: tl.constexpr, BLOCK: tl.constexpr):
    pid = which(axis=0)
    o = pid * BLOCK + tl.arange(0, BLOCK)
    m = o < n and o >= 0
    total, steps = 0.0, 0
    for k in range(0, count, 2):
        total += k.to(tl.float32) * 0.5
        steps += (k * 2).to(tl.int64).to(tl.int32)
        if k == 2 or not flag:
            total += 1
    s = scale.to(tl.float32)
    x = tl.load(x_ptr + o, mask=m, other=0.0)
    inside = not (x > 1.0 or x < -1.0)
    y = tl.where(inside, x * s, total.to(tl.float32)) + steps.to(tl.float32)
    if CAUSAL and n.to(tl.int64) > 2:
        y += tl.exp2(x * LOG2E) * SCALE
    i = 0
    while i < count and i < 4:
        y += 1.0
        i += 1
    tl.store(y_ptr + o, y, mask=m)


@pytest.mark.parametrize("flag", [True, False])
def test_logic_scalars_and_counters(flag: bool) -> None:
    x = torch.randn(50)
    y = torch.empty_like(x)
    logic[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](x, y, 50, 2.5, 6, flag, CAUSAL=True, BLOCK=16)
    total = (0 + 2 + 4) * 0.5 + (1 if flag else 3)
    right = torch.where((x <= 1) & (x >= -1), x * 2.5, torch.tensor(total)) + 12 + torch.exp(x) * 3 + 4
    close(y, right, 1e-5)


def make(power: int) -> Any:
    bias = tl.constexpr(0.5)

    @triton.jit
    def inner(x):
        return x * x * power + bias

    @triton.jit
    def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
        o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(y_ptr + o, inner(tl.load(x_ptr + o, mask=o < n)), mask=o < n)

    return kernel


def plain(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + o, tl.load(x_ptr + o, mask=o < n) * 2, mask=o < n)


def test_kernels_made_by_functions_and_calls() -> None:
    x, y = torch.randn(20), torch.empty(20)
    make(tl.constexpr(3))[(2,)](x, y, 20, BLOCK=16)
    close(y, x * x * 3 + 0.5)
    called = triton.jit(plain)
    called[(2,)](x, y, 20, BLOCK=16)
    close(y, x * 2)
    tuned = triton.autotune([triton.Config({"BLOCK": 16})], key=["n"])(triton.jit(plain))
    assert tuned.fn is not None
    heuristic = triton.heuristics({"BLOCK": lambda args: triton.next_power_of_2(args["n"])})(triton.jit(plain))
    heuristic[(1,)](x, y, 20)
    close(y, x * 2)


@functools.partial(triton.jit, do_not_specialize=["n"])
def partly(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    if n <= 0:
        return
    tl.static_assert(BLOCK >= 16, "small")
    tl.assume(n > 0)
    pair = (tl.load(x_ptr + o, mask=o < n), (1.0, n))
    x, (one, count) = pair
    for i in tl.static_range(2):
        x += one * i
    for i in tl.range(0, count, 8, num_stages=2, flatten=True):
        x += i * 0.0
    tl.store(y_ptr + o, x, mask=o < n)


def test_tuples_and_static_loops() -> None:
    x, y = torch.randn(20), torch.empty(20)
    partly[(1,)](x, y, 20, BLOCK=32)
    close(y, x + 1)


# --- libraries -----------------------------------------------------------------------------------------------


@triton.jit
def library(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n, other=1.0)
    a = libdevice.tanh(x) + cuda_libdevice.erf(x) + expm1(x)
    b = libdevice.log1p(x * x) + libdevice.pow(tl.abs(x) + 1.0, 1.5) + libdevice.rsqrt(x * x + 1)
    c = libdevice.fast_expf(x) + libdevice.fast_dividef(x, 3.0) + tl.extra.cuda.libdevice.round(x)
    d = libdevice.div_rn(x, 3.0) + libdevice.isnan(x).to(tl.float32) + libdevice.float2int_rn(x)
    e = tl.sigmoid(x) + tl.math.rsqrt(x * x + 1) + tl.erf(x) + tl.fdiv(x, 2.0) + tl.math.fma(x, x, 1.0)
    tl.store(y_ptr + o, a + b + c + d + e, mask=o < n)


def test_device_library() -> None:
    x = torch.randn(60)
    y = torch.empty_like(x)
    library[(1,)](x, y, 60, BLOCK=64)
    w = x.double()
    a = w.tanh() + w.erf() + w.expm1()
    b = (w * w).log1p() + (w.abs() + 1) ** 1.5 + (w * w + 1).rsqrt()
    c = w.exp() + w / 3 + w.sign() * (w.abs() + 0.5).floor()
    d = w / 3 + x.round()
    e = w.sigmoid() + (w * w + 1).rsqrt() + w.erf() + w / 2 + w * w + 1
    close(y.double(), a + b + c + d + e, 3e-6)


ASM = """
{
    .reg .pred p;  // of the sign
    .reg .f32 a, b<2>;
    mul.f32 a, $1, 0f3FB8AA3B;
    ex2.approx.ftz.f32 b0, a;
    add.rn.f32 b1, b0, 0f3F800000;
    rcp.approx.ftz.f32 b1, b1;
    setp.gt.f32 p, $1, 0f00000000;
    @p mov.f32 $0, $1;
    @!p mul.f32 $0, b1, b0;
}
"""
PACKED = """
{
    .reg .b32 t;
    max.bf16x2 t, $1, $2;
    mov.b32 $0, t;
}
"""


@triton.jit
def assembly(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o, mask=o < n, other=0.0)
    y = tl.inline_asm_elementwise(ASM, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    tl.store(y_ptr + o, y, mask=o < n)
    h = x.to(tl.bfloat16)
    z = tl.inline_asm_elementwise(PACKED, "=r,r,r", [h, -h], dtype=tl.bfloat16, is_pure=True, pack=2)
    tl.store(z_ptr + o, z, mask=o < n)


def test_inline_assembly() -> None:
    x = torch.randn(60)
    y, z = torch.empty(60), torch.empty(60, dtype=torch.bfloat16)
    assembly[(1,)](x, y, z, 60, BLOCK=64)
    close(y, torch.where(x > 0, x, x.sigmoid()))
    close(z, x.bfloat16().abs())


@triton.jit
def unpacks(a_ptr, b_ptr, c_ptr, d_ptr, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    c, d = tl.inline_asm_elementwise(
        asm="""
        {
            .reg .b8 tmp<4>;
            mov.b32 {tmp0, tmp1, tmp2, tmp3}, $8;
            cvt.u32.u8 $0, tmp0;
            cvt.u32.u8 $1, tmp1;
            cvt.u32.u8 $2, tmp2;
            cvt.u32.u8 $3, tmp3;
        }
        cvt.rn.f32.s32 $4, $0;
        cvt.rn.f32.s32 $5, $1;
        cvt.rn.f32.s32 $6, $2;
        cvt.rn.f32.s32 $7, $3;
        max.f32 $4, $4, $9;
        max.f32 $5, $5, $10;
        max.f32 $6, $6, $11;
        max.f32 $7, $7, $12;
        """,
        constraints="=r,=r,=r,=r,=r,=r,=r,=r,r,r,r,r,r",
        args=[tl.load(a_ptr + o), tl.load(b_ptr + o)],
        dtype=(tl.int32, tl.float32),
        is_pure=True,
        pack=4,
    )
    tl.store(c_ptr + o, c)
    tl.store(d_ptr + o, d)


def test_elements_share_registers() -> None:
    a, b = torch.randint(0, 256, (32,), dtype=torch.uint8), torch.randn(32) * 200
    c, d = torch.empty(32, dtype=torch.int32), torch.empty(32)
    unpacks[(1,)](a, b, c, d, BLOCK=32)
    assert torch.equal(c, a.int())
    close(d, torch.maximum(a.float(), b))


@triton.jit
def unknown(x_ptr, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o)
    y = tl.inline_asm_elementwise("vote.sync.ballot.b32 $0, $1, -1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(x_ptr + o, y)


def test_what_has_no_twin_is_named() -> None:
    with pytest.raises(NotInterpretableError, match=r"vote\.sync\.ballot"):
        unknown[(1,)](torch.zeros(16, dtype=torch.int32), BLOCK=16)


# --- blocks --------------------------------------------------------------------------------------------------


@triton.jit
def larger(a, b):
    return tl.where(a > b, a, b)


@triton.jit
def compose(a, b, c, d):
    return a * c, b * c + d


@triton.jit
def mean_and_square(m, s, c, m2, s2, c2):
    n = c + c2
    d = m2 - m
    return m + d * (c2 / n), s + s2 + d * d * (c * c2 / n), n


@triton.jit
def reductions(x_ptr, y_ptr, s_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    x = tl.load(x_ptr + r[:, None] * COLUMNS + c[None, :])
    best = tl.reduce(x, 1, larger)
    top, where = tl.max(x, 1, return_indices=True)
    m, s, n = tl.reduce((x, tl.zeros_like(x), tl.full(x.shape, 1.0, tl.float32)), 1, mean_and_square)
    low = tl.argmin(x, 1, tie_break_left=False)
    out = best + top + where.to(tl.float32) + m + s / n + low.to(tl.float32)
    tl.store(s_ptr + r, out)
    a = tl.sigmoid(x)
    _, h = tl.associative_scan((a, x), 1, compose)
    y = (
        h
        + tl.cumsum(x, 1, reverse=True)
        + tl.cumprod(a, 1)
        + tl.sort(x, 1)
        + x.sum(1, keep_dims=True)
        + tl.softmax(x, 1, keep_dims=True)
    )
    tl.store(y_ptr + r[:, None] * COLUMNS + c[None, :], y)


def test_reductions_scans_and_sorts() -> None:
    x = torch.randn(4, 16)
    y, s = torch.empty_like(x), torch.empty(4)
    reductions[(1,)](x, y, s, ROWS=4, COLUMNS=16)
    a = x.sigmoid()
    h = torch.zeros(4, 16)
    state = torch.zeros(4)
    for t in range(16):
        state = a[:, t] * state + x[:, t]
        h[:, t] = state
    right = 2 * x.amax(1) + x.argmax(1) + x.mean(1) + x.var(1, unbiased=False) + x.argmin(1)
    close(s, right, 1e-5)
    scans = h + x.flip(1).cumsum(1).flip(1) + a.cumprod(1) + x.sort(1).values + x.sum(1, keepdim=True)
    close(y, scans + x.softmax(1), 1e-5)


@triton.jit
def shapes_of_blocks(x_ptr, y_ptr, h_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o)
    joined = tl.join(x, x * 2)
    a, b = tl.split(joined)
    both = tl.interleave(a, b)
    p = tl.arange(0, 2 * BLOCK)
    tl.store(y_ptr + p, both + tl.cat(x, x, can_reorder=True) * 0)
    back = tl.gather(x, BLOCK - 1 - o, 0)
    tl.store(y_ptr + 2 * BLOCK + o, back + tl.flip(x, 0) * 0)
    counts = tl.histogram((o % 4).to(tl.int32), 4, o < n)
    tl.store(h_ptr + tl.arange(0, 4), counts)
    t = tl.trans(tl.reshape(x, (4, BLOCK // 4)))
    tl.store(y_ptr + 3 * BLOCK + o, tl.ravel(t))


def test_shapes_of_blocks() -> None:
    x = torch.randn(16)
    y, h = torch.empty(64), torch.empty(4, dtype=torch.int32)
    shapes_of_blocks[(1,)](x, y, h, 10, BLOCK=16)
    close(y[:32], torch.stack([x, 2 * x], 1).flatten())
    close(y[32:48], x.flip(0))
    close(y[48:], x.reshape(4, 4).T.flatten())
    assert h.tolist() == [3, 3, 2, 2]


@triton.jit
def products(a_ptr, b_ptr, c_ptr, K, M: tl.constexpr, N: tl.constexpr, STEP: tl.constexpr, ACC: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, STEP)
    acc = tl.zeros((M, N), dtype=ACC)
    for start in range(0, K, STEP):
        a = tl.load(a_ptr + m[:, None] * K + start + k[None, :])
        b = tl.load(b_ptr + (start + k)[:, None] * N + n[None, :])
        acc = tl.dot(a, b, acc, input_precision="ieee", out_dtype=ACC)
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc.to(c_ptr.dtype.element_ty))


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float32", "int8"])
def test_products(kind: str) -> None:
    dtype = getattr(torch, kind)
    a, b = (torch.randn(shape) * 3 for shape in ((16, 64), (64, 16)))
    a, b = a.to(dtype), b.to(dtype)
    integer = kind == "int8"
    c = torch.empty(16, 16, dtype=torch.int32 if integer else torch.float32)
    products[(1,)](a, b, c, 64, M=16, N=16, STEP=32, ACC=tl.int32 if integer else tl.float32)
    close_product(c, a.double(), b.double())


@triton.jit
def scaled_product(a_ptr, s_ptr, b_ptr, t_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k, g = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K), tl.arange(0, K // 32)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    s = tl.load(s_ptr + m[:, None] * (K // 32) + g[None, :])
    t = tl.load(t_ptr + n[:, None] * (K // 32) + g[None, :])
    c = tl.dot_scaled(a, s, "e4m3", b, t, "e4m3")
    tl.store(c_ptr + m[:, None] * N + n[None, :], c)


def test_scaled_products() -> None:
    a, b = torch.randn(16, 64).to(torch.float8_e4m3fn), torch.randn(64, 32).to(torch.float8_e4m3fn)
    s = torch.randint(120, 135, (16, 2), dtype=torch.uint8)
    t = torch.randint(120, 135, (32, 2), dtype=torch.uint8)
    c = torch.empty(16, 32)
    scaled_product[(1,)](a, s, b, t, c, M=16, N=32, K=64)
    left = a.double() * torch.exp2(s.double() - 127).repeat_interleave(32, 1)
    right = b.double() * torch.exp2(t.double() - 127).repeat_interleave(32, 1).T
    close_product(c, left, right)


# --- memory --------------------------------------------------------------------------------------------------


@triton.jit
def block_pointers(x_ptr, y_ptr, M, N, BM: tl.constexpr, BN: tl.constexpr):
    x = tl.make_block_ptr(x_ptr, (M, N), (N, 1), (tl.program_id(0) * BM, 0), (BM, BN), (1, 0))
    y = tl.make_block_ptr(y_ptr, (N, M), (M, 1), (0, tl.program_id(0) * BM), (BN, BM), (1, 0))
    for _ in range(0, N, BN):
        tl.store(y, tl.load(x, boundary_check=(0, 1), padding_option="zero").T, boundary_check=(0, 1))
        x = tl.advance(x, (0, BN))
        y = y.advance((BN, 0))


@triton.jit
def described(x_desc, y_ptr, M, N, BM: tl.constexpr, BN: tl.constexpr):
    y_desc = tl.make_tensor_descriptor(y_ptr, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    for column in range(0, N, BN):
        y_desc.store([tl.program_id(0) * BM, column], x_desc.load([tl.program_id(0) * BM, column]) * 2)
    y_desc.atomic_add([0, 0], tl.full([BM, BN], 1.0, tl.float32))


def test_block_pointers_and_descriptors() -> None:
    x, y = torch.randn(20, 24), torch.empty(24, 20)
    block_pointers[(3,)](x, y, 20, 24, BM=8, BN=16)
    close(y, x.T)
    z = torch.empty(20, 24)
    described[(3,)](TensorDescriptor.from_tensor(x, [8, 8]), z, 20, 24, BM=8, BN=8)
    right = x * 2
    right[:8, :8] += 1  # by the last program that came: the others' were overwritten, or not
    close(z[8:], right[8:])


@triton.jit
def atomics(x_ptr, c_ptr, f_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x = tl.load(x_ptr + o, mask=m, other=0)
    tl.atomic_add(c_ptr + x, 1, mask=m)
    tl.atomic_max(f_ptr, tl.max(x, 0).to(tl.float32))
    tl.atomic_min(f_ptr + 1, tl.min(tl.where(m, x, 100), 0).to(tl.float32))
    while tl.atomic_cas(c_ptr + 8, 0, 1) == 1:
        pass
    tl.store(f_ptr + 2, tl.load(f_ptr + 2) + 1.0)
    tl.atomic_xchg(c_ptr + 8, 0)


def test_atomics() -> None:
    x = torch.randint(0, 8, (50,))
    c, f = torch.zeros(9, dtype=torch.int32), torch.tensor([0.0, 100.0, 0.0])
    atomics[(4,)](x, c, f, 50, BLOCK=16)
    assert c[:8].tolist() == torch.bincount(x, minlength=8).tolist()
    assert f.tolist() == [float(x.max()), float(x.min()), 4.0]


@triton.jit
def random_numbers(y_ptr, seed, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    tl.store(y_ptr + o, tl.rand(seed, o) + 0 * tl.randn(seed, o), mask=o < n)
    tl.device_print("n", n)


def test_random_numbers() -> None:
    y, z = torch.empty(256), torch.empty(256)
    random_numbers[(1,)](y, 7, 256, BLOCK=256)
    random_numbers[(1,)](z, 7, 256, BLOCK=256)
    assert torch.equal(y, z)
    assert float(y.min()) >= 0
    assert float(y.max()) < 1
    assert abs(float(y.mean()) - 0.5) < 0.1


def test_a_warmup_gives_what_a_grid_is_derived_from() -> None:
    figures = {"name": "pretended", "capability": 89, "sm_count": 4, "l2_bytes": 1 << 20, "boost_clock_mhz": 1000,
               "registers_per_sm": 65536, "max_threads_per_sm": 1536, "warp_size": 32, "shared_bytes_per_sm": 1 << 17,
               "shared_bytes_per_block": 99 << 10, "memory_gb": 8}  # fmt: skip
    x, y = torch.randn(20), torch.empty(20)
    with runtime.kernel_environment({"device": "cpu", "gpu": figures}):
        kernel = triton.jit(plain)
        compiled = kernel.warmup(x, y, 20, BLOCK=16, num_warps=4, grid=(1,))
        compiled._init_handles()
        assert compiled.n_regs > 0
        assert compiled.metadata.shared == 0
        compiled[(2, 1, 1)](x, y, 20, 16)
        close(y, x * 2)
        y.zero_()
        compiled[(2, 1, 1)](x, y, 20)
    close(y, x * 2)


# --- what is kept between operations -----------------------------------------------------------------------------


@triton.jit
def numbers_beside_blocks(x_ptr, o_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(o_ptr + i, 1.0 / (x * 0.0))
    tl.store(o_ptr + N + i, 1.0 / (x * -0.0))
    tl.store(o_ptr + 2 * N + i, (i + 1) / 2)
    tl.store(o_ptr + 3 * N + i, (i + 1) / 2.0)
    tl.store(o_ptr + 4 * N + i, (i + 1) // 2)
    tl.store(o_ptr + 5 * N + i, 1 - x)
    tl.store(o_ptr + 6 * N + i, x - 1)


def test_a_kept_number_is_that_number() -> None:
    n = 8
    x, out = torch.rand(n) + 1, torch.empty(7, n)
    for _ in range(2):
        numbers_beside_blocks[(1,)](x, out, N=n)
        i = torch.arange(n) + 1
        infinite = torch.full((n,), float("inf"))  # Triton makes every zero of a kernel a positive one
        expected = [infinite, infinite, i / 2, i / 2, i // 2, 1 - x, x - 1]
        assert torch.equal(out, torch.stack([one.float() for one in expected]))


@triton.jit
def shapes_that_meet(x_ptr, y_ptr, o_ptr, s, M: tl.constexpr, N: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    x, y = tl.load(x_ptr + m), tl.load(y_ptr + n)
    both = x[:, None] * y[None, :] + s
    tl.store(o_ptr + m[:, None] * N + n[None, :], both + y + (m[:, None] < n[None, :]))


def test_blocks_of_other_shapes_are_brought_to_one() -> None:
    x, y = torch.randn(4), torch.randn(8)
    out = torch.empty(4, 8)
    for scalar in (2.0, -3.0):
        shapes_that_meet[(1,)](x, y, out, scalar, M=4, N=8)
        close(out, x[:, None] * y + scalar + y + (torch.arange(4)[:, None] < torch.arange(8)))
