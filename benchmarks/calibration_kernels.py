"""Micro-benchmarks that the model's constants come from: each kernel isolates one limit of a GPU."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def copy_kernel(x_ptr, out_ptr, numel, BLOCK: tl.constexpr):
    """Read and write once."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < numel
    tl.store(out_ptr + offsets, tl.load(x_ptr + offsets, mask=mask), mask=mask)


@triton.jit
def fill_kernel(out_ptr, numel, BLOCK: tl.constexpr):
    """Write once."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offsets, 1.0, mask=offsets < numel)


@triton.jit
def read_kernel(x_ptr, out_ptr, per_program, passes, region, BLOCK: tl.constexpr, CACHE: tl.constexpr):
    """Each program reads `per_program` elements, `passes` times; regions of different programs may overlap."""
    base = (tl.program_id(0).to(tl.int64) * per_program) % region
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for _ in range(passes):
        for begin in range(0, per_program, BLOCK):
            total += tl.load(x_ptr + base + begin + tl.arange(0, BLOCK), cache_modifier=CACHE)
    tl.store(out_ptr + tl.program_id(0), tl.sum(total))


@triton.jit
def chase_kernel(next_ptr, out_ptr, hops):
    """Follow a chain of pointers: nothing but latency."""
    place = tl.load(next_ptr)
    for _ in range(hops):
        place = tl.load(next_ptr + place)
    tl.store(out_ptr, place)


@triton.jit
def empty_kernel(out_ptr):
    """Start, and end."""
    if tl.program_id(0) == 1 << 30:
        tl.store(out_ptr, 1.0)


@triton.jit
def mixed_kernel(x_ptr, out_ptr, numel, BLOCK: tl.constexpr, MULTIPLIES: tl.constexpr, POWERS: tl.constexpr):
    """A copy with so many multiply-adds and powers of two for each element."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < numel
    x = tl.load(x_ptr + offsets, mask=mask)
    for _ in tl.static_range(MULTIPLIES):
        x = tl.fma(x, 0.999, 0.001)
    for _ in tl.static_range(POWERS):
        x = tl.exp2(x) * 0.5
    tl.store(out_ptr + offsets, x, mask=mask)


@triton.jit
def compute_kernel(out_ptr, rounds, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """Arithmetic without memory: 16 dependent steps a round on each element of the block."""
    x = tl.arange(0, BLOCK).to(tl.float32) * 1e-3
    i = tl.arange(0, BLOCK)
    for _ in range(rounds):
        for _ in tl.static_range(16):
            if KIND == "fma":
                x = tl.fma(x, 0.999, 0.001)
            elif KIND == "exp2":
                x = tl.exp2(x)
            else:
                i = (i ^ 12345) + (i >> 3)
    tl.store(out_ptr + tl.arange(0, BLOCK), x + i)


@triton.jit
def product_kernel(
    a_ptr, b_ptr, out_ptr, rounds, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr
):
    """Products of one pair of tiles, again and again, out of shared memory."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    acc = tl.zeros((M, N), dtype=tl.float32)
    for _ in range(rounds):
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    tl.store(out_ptr + m[:, None] * N + n[None, :], acc)


@triton.jit
def runs_kernel(x_ptr, out_ptr, rows, ROWS: tl.constexpr, RUN: tl.constexpr, ROW: tl.constexpr, CACHE: tl.constexpr):
    """Each program reads a strip of a matrix: RUN contiguous elements of ROWS rows at a time, down its columns' rows.

    Programs of one strip of rows read its columns one after the other, each column by another program.
    """
    column = (tl.program_id(0) % (ROW // RUN)) * RUN
    first = (tl.program_id(0) // (ROW // RUN)).to(tl.int64) * rows
    total = tl.zeros([ROWS, RUN], dtype=tl.float32)
    for begin in range(0, rows, ROWS):
        r = first + begin + tl.arange(0, ROWS)
        total += tl.load(x_ptr + r[:, None] * ROW + column + tl.arange(0, RUN)[None, :], cache_modifier=CACHE)
    tl.store(out_ptr + tl.program_id(0), tl.sum(total))


@triton.jit
def walk_kernel(x_ptr, out_ptr, columns, ROWS: tl.constexpr, RUN: tl.constexpr, ROW: tl.constexpr):
    """Each program walks along ROWS rows of a matrix, RUN contiguous elements of each at a time."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, RUN], dtype=tl.float32)
    for begin in range(0, columns, RUN):
        total += tl.load(x_ptr + r[:, None] * ROW + begin + tl.arange(0, RUN)[None, :])
    tl.store(out_ptr + tl.program_id(0), tl.sum(total))
