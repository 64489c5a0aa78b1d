"""Plain Triton kernels of four kinds, written from a schedule: what the ranking measures beside our emitter's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Template


@dataclass(frozen=True)
class Item:
    """One kernel with one schedule.

    Attributes:
        kind: `pointwise`, `row reduction`, `strided reduction`, `GEMM tiles`, ...
        problem: what it computes, and at which size; schedules of one problem do the same work.
        schedule: for people.
        reference: Python file with `Model` and its inputs.
        candidate: Python file with `ModelNew`.
    """

    kind: str
    problem: str
    schedule: str
    reference: str
    candidate: str

    @property
    def name(self) -> str:
        """Kind, problem and schedule: what a recorded time is found by."""
        return f"{self.kind}: {self.problem}: {self.schedule}"


_HEAD = "import torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n\n\n"


def _reference(expression: str, inputs: str) -> str:
    return (
        "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
        "class Model(nn.Module):\n"
        f"    def forward(self, {', '.join(_names(inputs))}):\n        return {expression}\n\n\n"
        f"def get_init_inputs():\n    return []\n\n\ndef get_inputs():\n    return [{inputs}]\n"
    )


def _names(inputs: str) -> list[str]:
    return ["x", "y"][: inputs.count("torch.")]


def _filled(text: str, values: Mapping[str, object]) -> str:
    return _HEAD + Template(text).substitute({name: str(value) for name, value in values.items()})


# ---------------------------------------------------------------------------------------------------------
# Pointwise

_POINTWISE = """@triton.jit
def pointwise_kernel(x_ptr, out_ptr, numel, BLOCK: tl.constexpr, STEP: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    for begin in range(start, numel, STEP):
        offsets = begin + tl.arange(0, BLOCK)
        mask = offsets < numel
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0)
        tl.store(out_ptr + offsets, $value, mask=mask)


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        numel = x.numel()
        programs = min($programs, triton.cdiv(numel, $block))
        pointwise_kernel[(programs,)](x, out, numel, BLOCK=$block, STEP=programs * $block, num_warps=$warps)
        return out
"""

_TRANSPOSED = """@triton.jit
def transposed_kernel(x_ptr, out_ptr, rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    mask = (r < rows) & (c < columns)
    x = tl.load(x_ptr + r * columns + c, mask=mask, other=0.0)
    tl.store(out_ptr + r * columns + c, $value, mask=mask)


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        rows, columns = x.shape
        grid = (triton.cdiv(rows, $block_r), triton.cdiv(columns, $block_c))
        transposed_kernel[grid](x, out, rows, columns, BLOCK_R=$block_r, BLOCK_C=$block_c, num_warps=$warps)
        return out
"""

_VALUES = {
    "relu": ("tl.maximum(x, 0.0)", "F.relu(x)"),
    "gelu": ("0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))", "F.gelu(x)"),
}


def pointwise() -> Iterator[Item]:
    """A cheap and a dear chain over a matrix: block sizes, warps, program counts, and tiles across the rows."""
    inputs = "torch.rand(8192, 8192) - 0.5"
    many = 1 << 30
    flat = [(128, 4, many), (256, 1, many), (1024, 4, many), (2048, 8, many), (8192, 8, many), (1024, 4, 66)]
    tiles = [(64, 4, 4), (256, 1, 4), (8, 8, 1), (16, 128, 4), (512, 2, 4)]
    for name, (value, expression) in _VALUES.items():
        problem = f"{name} of [8192, 8192]"
        for block, warps, programs in flat:
            values = {"value": value, "block": block, "warps": warps, "programs": programs}
            limit = "" if programs == many else f", {programs} programs"
            schedule = f"blocks of {block}, {warps} warps{limit}"
            yield Item("pointwise", problem, schedule, _reference(expression, inputs), _filled(_POINTWISE, values))
        for block_r, block_c, warps in tiles:
            values = {"value": value, "block_r": block_r, "block_c": block_c, "warps": warps}
            schedule = f"tiles of {block_r}x{block_c}, {warps} warps"
            yield Item("pointwise", problem, schedule, _reference(expression, inputs), _filled(_TRANSPOSED, values))


# ---------------------------------------------------------------------------------------------------------
# Row reductions

_ROW_SUM = """@triton.jit
def row_sum_kernel(x_ptr, out_ptr, rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    total = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    for begin in range(0, columns, BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        mask = (r[:, None] < rows) & (c[None, :] < columns)
        total += tl.load(x_ptr + r[:, None] * columns + c[None, :], mask=mask, other=0.0)
    tl.store(out_ptr + r, tl.sum(total, axis=1), mask=r < rows)


class ModelNew(nn.Module):
    def forward(self, x):
        rows, columns = x.shape
        out = torch.empty(rows, device=x.device, dtype=x.dtype)
        grid = (triton.cdiv(rows, $block_r),)
        row_sum_kernel[grid](x, out, rows, columns, BLOCK_R=$block_r, BLOCK_C=$block_c, num_warps=$warps)
        return out
"""

_SOFTMAX = """@triton.jit
def softmax_kernel(x_ptr, out_ptr, rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    largest = tl.full([BLOCK_R], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_R], dtype=tl.float32)
    for begin in range(0, columns, BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        mask = (r[:, None] < rows) & (c[None, :] < columns)
        x = tl.load(x_ptr + r[:, None] * columns + c[None, :], mask=mask, other=float("-inf"))
        above = tl.maximum(largest, tl.max(x, axis=1))
        total = total * tl.exp(largest - above) + tl.sum(tl.exp(x - above[:, None]), axis=1)
        largest = above
    for begin in range(0, columns, BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        mask = (r[:, None] < rows) & (c[None, :] < columns)
        x = tl.load(x_ptr + r[:, None] * columns + c[None, :], mask=mask, other=0.0)
        tl.store(out_ptr + r[:, None] * columns + c[None, :], tl.exp(x - largest[:, None]) / total[:, None], mask=mask)


class ModelNew(nn.Module):
    def forward(self, x):
        rows, columns = x.shape
        out = torch.empty_like(x)
        grid = (triton.cdiv(rows, $block_r),)
        softmax_kernel[grid](x, out, rows, columns, BLOCK_R=$block_r, BLOCK_C=$block_c, num_warps=$warps)
        return out
"""


def row_reductions() -> Iterator[Item]:
    """Sum and softmax over the contiguous dim."""
    inputs = "torch.rand(16384, 4096)"
    tiles = [(1, 4096, 4), (1, 1024, 4), (1, 256, 1), (4, 256, 4), (16, 64, 4), (64, 16, 4), (128, 32, 8), (1, 128, 4)]
    for name, text, expression in (("sum", _ROW_SUM, "x.sum(1)"), ("softmax", _SOFTMAX, "F.softmax(x, 1)")):
        for block_r, block_c, warps in tiles:
            values = {"block_r": block_r, "block_c": block_c, "warps": warps}
            schedule = f"tiles of {block_r}x{block_c}, {warps} warps"
            problem = f"{name} over rows of [16384, 4096]"
            yield Item("row reduction", problem, schedule, _reference(expression, inputs), _filled(text, values))


# ---------------------------------------------------------------------------------------------------------
# Strided reductions

_STRIDED = """@triton.jit
def strided_kernel(x_ptr, out_ptr, depth, width, BLOCK_D: tl.constexpr, BLOCK_W: tl.constexpr):
    n = tl.program_id(1)
    w = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
    total = tl.full([BLOCK_D, BLOCK_W], $start, dtype=tl.float32)
    for begin in range(0, depth, BLOCK_D):
        d = begin + tl.arange(0, BLOCK_D)
        mask = (d[:, None] < depth) & (w[None, :] < width)
        x = tl.load(x_ptr + (n * depth + d[:, None]) * width + w[None, :], mask=mask, other=$start)
        total = $combine
    tl.store(out_ptr + n * width + w, $finish, mask=w < width)


class ModelNew(nn.Module):
    def forward(self, x):
        batch, depth, width = x.shape
        out = torch.empty(batch, width, device=x.device, dtype=x.dtype)
        grid = (triton.cdiv(width, $block_w), batch)
        strided_kernel[grid](x, out, depth, width, BLOCK_D=$block_d, BLOCK_W=$block_w, num_warps=$warps)
        return out
"""


def strided_reductions() -> Iterator[Item]:
    """Sum and minimum over a dim that is not the last."""
    tiles = [(128, 1, 4), (128, 4, 4), (32, 32, 4), (8, 128, 4), (16, 128, 4), (4, 512, 4), (1, 128, 4), (64, 16, 2)]
    kinds = (
        ("sum", "[64, 256, 4096]", "0.0", "total + x", "tl.sum(total, axis=0)", "x.sum(1)"),
        ("min", "[16, 2048, 1024]", 'float("inf")', "tl.minimum(total, x)", "tl.min(total, axis=0)", "x.min(1)[0]"),
    )
    for name, shape, start, combine, finish, expression in kinds:
        for block_d, block_w, warps in tiles:
            values = {"start": start, "combine": combine, "finish": finish}
            values |= {"block_d": str(block_d), "block_w": str(block_w), "warps": str(warps)}
            schedule = f"tiles of {block_d}x{block_w}, {warps} warps"
            reference = _reference(expression, f"torch.rand({shape[1:-1]})")
            yield Item(
                "strided reduction", f"{name} over dim 1 of {shape}", schedule, reference, _filled(_STRIDED, values)
            )


# ---------------------------------------------------------------------------------------------------------
# Matrix products

_PRODUCT = """@triton.jit
def product_kernel(
    a_ptr, b_ptr, c_ptr, m, n, k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):
    tiles_m, tiles_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    pid = tl.program_id(0)
    group = pid // (GROUP * tiles_n)
    height = min(tiles_m - group * GROUP, GROUP)
    pid_m = group * GROUP + (pid % (GROUP * tiles_n)) % height
    pid_n = (pid % (GROUP * tiles_n)) // height
    offs_m = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M)) % m
    offs_n = (pid_n * BLOCK_N + tl.arange(0, BLOCK_N)) % n
    offs_k = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + offs_m[:, None] * k + offs_k[None, :]
    b_ptrs = b_ptr + offs_k[:, None] * n + offs_n[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(0, tl.cdiv(k, BLOCK_K)):
        a = tl.load(a_ptrs, mask=offs_k[None, :] < k - step * BLOCK_K, other=0.0)
        b = tl.load(b_ptrs, mask=offs_k[:, None] < k - step * BLOCK_K, other=0.0)
        acc += tl.dot(a, b)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K * n
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(c_ptr + rows[:, None] * n + columns[None, :], acc, mask=mask)


class ModelNew(nn.Module):
    def forward(self, x, y):
        m, k = x.shape
        n = y.shape[1]
        out = torch.empty(m, n, device=x.device, dtype=torch.float32)
        grid = (triton.cdiv(m, $block_m) * triton.cdiv(n, $block_n),)
        product_kernel[grid](
            x, y, out, m, n, k,
            BLOCK_M=$block_m, BLOCK_N=$block_n, BLOCK_K=$block_k, GROUP=$group, num_warps=$warps, num_stages=$stages,
        )
        return out
"""


def products() -> Iterator[Item]:
    """Matrix products of float16 and of float32 (TF32) operands."""
    tiles = [
        (16, 16, 32, 1, 2, 8),
        (32, 32, 32, 2, 3, 8),
        (64, 64, 32, 4, 4, 8),
        (64, 64, 32, 4, 1, 8),
        (128, 64, 32, 4, 3, 8),
        (128, 128, 32, 4, 3, 8),
        (128, 128, 32, 8, 2, 1),
        (128, 256, 32, 8, 3, 8),
        (16, 256, 32, 4, 3, 8),
    ]
    kinds = (("float16", 8192, 4096, 2048), ("float32", 4096, 4096, 2048))
    for kind, m, n, k in kinds:
        cast = ", dtype=torch.float16" if kind == "float16" else ""
        inputs = f"torch.rand({m}, {k}{cast}), torch.rand({k}, {n}{cast})"
        for block_m, block_n, block_k, warps, stages, group in tiles:
            values = {"block_m": block_m, "block_n": block_n, "block_k": block_k}
            values |= {"warps": warps, "stages": stages, "group": group}
            schedule = f"tiles of {block_m}x{block_n}x{block_k}, {warps} warps, {stages} stages, groups of {group}"
            reference = _reference("(x.float() @ y.float())", inputs)
            problem = f"[{m}, {k}] @ [{k}, {n}] of {kind}"
            yield Item("GEMM tiles", problem, schedule, reference, _filled(_PRODUCT, values))


def plain_items() -> list[Item]:
    """All items of the four plain kinds."""
    return [*pointwise(), *row_reductions(), *strided_reductions(), *products()]
