"""What holds a matrix product back: the wrong unit, and tiles that ask for every operand too often."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tilewright.diagnosis.facts import Facts, Figure, KernelFacts
from tilewright.diagnosis.rule import Threshold, plain, words_of_bytes
from tilewright.measure import constants as c
from tilewright.measure.launches import ProductShape, matrix_traffic
from tilewright.measure.model import dram_ms, matrix_ms
from tilewright.values.diagnosis import Diagnosis
from tilewright.values.precision import PrecisionClass
from tilewright.values.profile import DRAM_THROUGHPUT, L2_HIT_RATE, TENSOR_PIPE

#: Accumulators of a thread that leave room for operands: a tile of 128 x 128 over 8 warps, or 128 x 256 over 16.
_ACCUMULATORS = 64
#: Warps of a program at most for such a tile. Assumption: more than 8 gain nothing.
_WARPS = 8


def largest_tile(product: ProductShape) -> tuple[int, int]:
    """The largest square-ish tile whose accumulators fit in registers, no larger than the product itself."""
    elements = _ACCUMULATORS * 32 * _WARPS
    side = 2 ** round(math.log2(elements) / 2)
    rows = min(side, _power_below(product.sizes[0]))
    columns = min(elements // max(rows, 1), _power_below(product.sizes[1]), 2 * side)
    return rows, columns


def _power_below(size: int) -> int:
    return 1 << (max(1, size).bit_length() - 1)


def _operand(product: ProductShape, kernel: KernelFacts, precision: PrecisionClass) -> PrecisionClass:
    types = {argument.type for argument in kernel.launch.arguments} if kernel.launch is not None else set()
    for name, kind in (("*fp16", PrecisionClass.FP16), ("*bf16", PrecisionClass.BF16)):
        if name in types and product.operand_bytes == 2:
            return kind
    return precision


def idle_tensor_cores(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """A matrix product on the float32 pipes, where the task's class allows tensor cores."""
    for kernel in facts.kernels:
        product, used = kernel.product, kernel.metric(TENSOR_PIPE)
        if product is None or facts.precision is PrecisionClass.IEEE:
            continue
        if used is None and kernel.mix:
            used = Figure(100.0 * kernel.mix.get("tensor", 0.0), "modelled")
        if used is None or not threshold.met_by(used.value):
            continue
        operations = 2.0 * math.prod(product.sizes)
        least = matrix_ms(operations, facts.gpu, facts.precision, c.TRITON_MATRIX_EFFICIENCY)
        time = kernel.time_ms
        yield Diagnosis(
            "idle-tensor-cores",
            f"{kernel.name} multiplies without tensor cores",
            kernel.name,
            f"{kernel.name} computes a product of {' x '.join(str(size) for size in product.sizes)} and leaves the "
            f"tensor cores idle, although the task's class {facts.precision} lets them do it.",
            (threshold.evidence(TENSOR_PIPE, used), plain("operations of the product", operations, "", "counted")),
            "tl.dot on tiles of 16 and more, its operands in the task's class.",
            None if time is None else max(0.0, time.value - least),
            "" if time is None else time.label,
        )


def small_tile(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """A product's tile asks for each operand far more often than a tile that fits would."""
    for kernel in facts.kernels:
        product, used = kernel.product, kernel.metric(TENSOR_PIPE)
        if product is None or (used is not None and used.value >= 60.0):
            continue
        best = largest_tile(product)
        asked = matrix_traffic(kernel.launch, product) if kernel.launch is not None else 0.0
        ratio = (sum(product.tile) / math.prod(product.tile)) / (sum(best) / math.prod(best))
        if not asked or not threshold.met_by(ratio):
            continue
        time = kernel.time_ms
        cost, label = _tile_cost(kernel, product, facts, ratio)
        rows, columns = product.tile
        m, n, _ = product.sizes
        evidence = [
            threshold.evidence(
                f"bytes asked for, over those of a {best[0]} x {best[1]} tile", Figure(ratio, "counted")
            ),
            plain("bytes that the programs ask for", asked, "bytes", "counted"),
            plain("bytes of its tensors, once each", kernel.traffic.total, "bytes", "counted"),
        ]
        for name in (DRAM_THROUGHPUT, L2_HIT_RATE, TENSOR_PIPE):
            if (figure := kernel.metric(name)) is not None:
                evidence.append(plain(name, figure.value, "%", figure.label))
        yield Diagnosis(
            "small-tile",
            f"the {rows} x {columns} tile of {kernel.name} is too small",
            kernel.name,
            f"With a tile of {rows} x {columns}, {kernel.name} asks for its left operand {math.ceil(n / columns)} "
            f"times and for its right one {math.ceil(m / rows)} times: {words_of_bytes(asked)}, {ratio:.2g} times as "
            f"much as with {best[0]} x {best[1]}; the tensor cores wait for it.",
            tuple(evidence),
            f"A tile of {best[0]} x {best[1]} or near it, {_WARPS} warps, and neighbouring programs on neighbouring "
            "tiles (grouped order), so that what they share stays in L2.",
            cost if time is not None else None,
            label,
        )


def _tile_cost(kernel: KernelFacts, product: ProductShape, facts: Facts, ratio: float) -> tuple[float | None, str]:
    """What the larger tile can save: the time falls with the bytes asked for, down to the product's other limits."""
    time = kernel.time_ms
    if time is None:
        return None, ""
    kind = _operand(product, kernel, facts.precision)
    floor = max(
        matrix_ms(2.0 * math.prod(product.sizes), facts.gpu, kind, c.MATRIX_EFFICIENCY),
        dram_ms(kernel.traffic.total, facts.gpu),
    )
    return max(0.0, time.value - max(floor, time.value / ratio)), time.label
