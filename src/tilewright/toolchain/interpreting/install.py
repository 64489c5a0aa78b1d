"""Everything that makes the interpreter's kernels mean what they mean on a GPU, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tilewright.toolchain.interpreting import blocks, fast, language, numbers, products, ptx


def install(interpreter: Any, saw: Callable[[str], None]) -> None:
    """Change `triton.runtime.interpreter`; `saw` is told the kind of operands of each product."""
    numbers.install(interpreter)
    blocks.install(interpreter)
    products.install(interpreter, saw)
    ptx.install(interpreter)
    language.install(interpreter)
    fast.install(interpreter)
    options = interpreter.interpreter_builder.options
    known = {option.name for option in dataclasses.fields(options)}
    wanted = {
        "sanitize_overflow": False,  # the check of each integer operation costs half of the time at small sizes
        "allowed_dot_input_precisions": ("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6"),
        "supported_fp8_dtypes": ("fp8e5", "fp8e5b16", "fp8e4nv", "fp8e4b8", "fp8e4b15"),
        "num_warps": 4,
    }
    options = dataclasses.replace(options, **{key: value for key, value in wanted.items() if key in known})
    for key in wanted.keys() - known:
        object.__setattr__(options, key, wanted[key])
    interpreter.interpreter_builder.options = options
