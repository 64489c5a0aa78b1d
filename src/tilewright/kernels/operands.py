"""What the tensor cores multiply: in which form operands reach them."""

from __future__ import annotations

from enum import StrEnum


class Operands(StrEnum):
    """The form of a product's operands."""

    HALF = "half"  #: float16 copies of float32 operands, each row and column scaled by a power of two
    TF32 = "tf32"  #: float32 operands as given, rounded to TF32 by the hardware
    IEEE = "ieee"  #: float32 operands as given, multiplied as such
    GIVEN = "given"  #: float16 or bfloat16 operands as given
