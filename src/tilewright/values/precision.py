"""Precision classes: how products are rounded before they are accumulated in float32 (or wider)."""

from __future__ import annotations

from enum import StrEnum


class PrecisionClass(StrEnum):
    """What the matrix products of a module may round their operands to.

    A comparison with a peer is made within one class. Accumulation is in float32 in every class.
    """

    IEEE = "ieee"  #: float32 products, 24-bit significand
    TF32 = "tf32"  #: operands rounded to 10 explicit mantissa bits, float32's exponent range
    FP16 = "fp16"  #: IEEE binary16 operands
    BF16 = "bf16"  #: bfloat16 operands
