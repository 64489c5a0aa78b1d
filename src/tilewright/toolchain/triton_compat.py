"""What differs between the supported Triton versions (3.6 and newer), and what reaches below its public API.

Everything here is imported lazily from Triton, so that importing this module costs nothing and an interpreter
run can still be chosen (`TRITON_INTERPRET=1` must be set before Triton is imported).
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

#: Options that a launch may carry beside the kernel's own parameters, with Triton's defaults for NVIDIA.
DEFAULT_NUM_WARPS = 4
DEFAULT_NUM_STAGES = 3


@dataclass(frozen=True)
class BoundArgument:
    """One argument of a launch as Triton's binder sees it.

    Attributes:
        name: parameter of the kernel.
        type: Triton's signature type (`*fp32`, `i32`, `constexpr`, ...).
        divisible_by_16: the binder would specialise on it.
        value: what was passed.
    """

    name: str
    type: str
    divisible_by_16: bool
    value: Any


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one kernel.

    Attributes:
        registers: of a thread.
        spill_bytes: local memory of a thread, bytes.
        shared_bytes: shared memory of a program, bytes.
        warps: of a program.
        scratch_bytes: of a program, in global memory that Triton allocates at the launch.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    scratch_bytes: int = 0


def jit_function_type() -> type:
    """The class of a compiled kernel (`triton.JITFunction`)."""
    from triton.runtime.jit import JITFunction

    return JITFunction  # type: ignore[no-any-return]


def compiled_kernel_type() -> type:
    """The class of a kernel compiled for arguments of one kind (`triton.compiler.CompiledKernel`)."""
    from triton.compiler import CompiledKernel

    return CompiledKernel  # type: ignore[no-any-return]


def interpreted_function_type() -> type:
    """The class of an interpreted kernel."""
    from triton.runtime.interpreter import InterpretedFunction

    return InterpretedFunction  # type: ignore[no-any-return]


def autotuner_type() -> type:
    """The class behind `@triton.autotune`."""
    from triton.runtime.autotuner import Autotuner

    return Autotuner  # type: ignore[no-any-return]


def base_function(kernel: Any) -> Callable[..., Any]:
    """The plain Python function under a kernel's decorators."""
    while not inspect.isfunction(kernel):
        kernel = kernel.fn
    return kernel


def kernel_name(kernel: Any) -> str:
    """The name of a kernel as its source defines it."""
    return base_function(kernel).__name__


@contextlib.contextmanager
def pretended_driver(gpu: Mapping[str, Any]) -> Iterator[None]:
    """Within it, Triton's active driver is one of the target `gpu`, which compiles but cannot launch."""
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    target = GPUTarget("cuda", int(gpu["capability"]), int(gpu["warp_size"]))

    def figures(device: int = 0) -> dict[str, int]:
        return {
            "max_shared_mem": gpu["shared_bytes_per_block"],
            "max_num_regs": gpu["registers_per_sm"],
            "multiprocessor_count": gpu["sm_count"],
            "warpSize": gpu["warp_size"],
            "sm_clock_rate": int(float(gpu["boost_clock_mhz"]) * 1000),
            "mem_clock_rate": 0,
            "mem_bus_width": 0,
        }

    pretended = SimpleNamespace(
        get_current_device=lambda: 0,
        set_current_device=lambda device: None,
        get_current_stream=lambda device=0: 0,
        get_device_capability=lambda device=0: divmod(int(gpu["capability"]), 10),
        get_current_target=lambda: target,
        get_active_torch_device=lambda: torch.device("cuda", 0),
        get_device_interface=lambda: torch.cuda,
        utils=SimpleNamespace(get_device_properties=figures),
    )
    previous = driver._active
    driver.set_active(pretended)
    try:
        yield
    finally:
        driver._active = previous


def bind(kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[BoundArgument, ...]:
    """A launch's arguments with the types that Triton's own binder gives them.

    Args:
        kernel: a `JITFunction`, under an active driver (real or pretended).
        args, kwargs: as the launch passes them, without grid.
    """
    binder = kernel.device_caches[0][-1]
    options = {key: value for key, value in kwargs.items() if key not in {"grid", "warmup"}}
    bound, specialization, _ = binder(*args, **options, debug=False)
    declared = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    return tuple(
        BoundArgument(name, _declared_type(str(kind[0]), name in declared, value), _divisible(kind[1]), value)
        for (name, value), kind in zip(bound.items(), specialization, strict=False)
    )


def _declared_type(bound: str, is_constexpr: bool, value: Any) -> str:
    # Triton makes a constant of an integer that is 1; for people it stays the integer that it was passed as.
    return "i32" if bound == "constexpr" and not is_constexpr and type(value) is int else bound


def _divisible(attribute: Any) -> bool:
    return isinstance(attribute, str) and "D" in attribute


def compile_launch(kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Compiled:
    """Compile a launch for the active driver's target, as launching it would, and ask what it needs.

    Raises:
        Exception: whatever Triton raises where the kernel does not compile.
    """
    return compile_with_code(kernel, args, kwargs)[0]


def compile_with_code(kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Compiled, bytes, str]:
    """As `compile_launch`, with the machine code (a cubin) and the text of Triton's GPU dialect.

    Raises:
        Exception: whatever Triton raises where the kernel does not compile.
    """
    options = {key: value for key, value in kwargs.items() if key not in {"grid", "warmup"}}
    compiled = kernel.run(*args, grid=None, warmup=True, **options)
    cubin = compiled.asm["cubin"]
    registers, stack = _resource_usage(cubin)
    scratch = int(getattr(compiled.metadata, "global_scratch_size", 0) or 0)
    said = Compiled(registers, stack, int(compiled.metadata.shared), int(compiled.metadata.num_warps), scratch)
    return said, cubin, str(compiled.asm["ttgir"])


def has_allocator() -> bool:
    """Whether somebody has told Triton (in this context) where a launch's scratch memory comes from."""
    from triton.runtime import _allocation

    kept: Any = _allocation._allocator
    current = kept.get() if hasattr(kept, "get") else kept
    return not isinstance(current, _allocation.NullAllocator)


def _resource_usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread, of the one kernel in a cubin."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers = [int(found) for found in re.findall(r"\bREG:(\d+)", text)]
    stack = [int(found) for found in re.findall(r"\bSTACK:(\d+)", text)]
    return max(registers, default=0), max(stack, default=0)


def compile_error_line(error: BaseException, kernel: Any) -> int | None:
    """Line of the candidate's file that a compile error points to, if it points to one."""
    line = getattr(getattr(error, "node", None), "lineno", None)
    start = getattr(kernel, "starting_line_number", None)
    if line is None or start is None:
        return None
    # Triton parses the source from `def` on; `starting_line_number` counts from the first decorator.
    raw = "".join(getattr(kernel, "raw_src", [])).splitlines()
    before = next((index for index, text in enumerate(raw) if re.match(r"\s*def\s", text)), 0)
    return int(start) + before + int(line) - 1


# ---------------------------------------------------------------------------------------------------------
# The interpreter: a few of its operations are slow, or differ from the hardware in the last bits.


@dataclass
class Seen:
    """What the refined interpreter saw: products in reduced precision, and casts to narrower floats.

    Attributes:
        dots: operand kind (`tf32`, `ieee`, `fp16`, ...) -> calls of `tl.dot`.
        narrowed: narrower type -> casts of float32 values to it.
    """

    dots: dict[str, int] = field(default_factory=dict)
    narrowed: dict[str, int] = field(default_factory=dict)


def refine_interpreter() -> Seen:
    """Make the interpreter's kernels mean what they mean on the hardware, as far as a CPU can tell.

    `tilewright.toolchain.interpreting` adds what it lacks. Beside that: `erf` runs vectorised; products in TF32 see
    operands without their last 13 bits, as the tensor cores do; minima and maxima drop a NaN unless they are told to
    keep it; integers divided by zero are nothing that a kernel may count on.
    """
    import numpy as np
    from triton.runtime import interpreter

    from tilewright.toolchain.interpreting.install import install

    seen = Seen()
    builder = interpreter.InterpreterBuilder
    _lighten(interpreter)
    install(interpreter, lambda kind: seen.dots.update({kind: seen.dots.get(kind, 0) + 1}))
    _refine_numbers(builder, interpreter.TensorHandle, seen)
    _keep_truth_values(builder)
    for division in ("create_idiv", "create_srem", "create_urem"):
        setattr(builder, division, _unspecified_by_zero(getattr(builder, division), interpreter.TensorHandle))

    def keeping(operation: Any) -> Any:
        return lambda self, lhs, rhs: self.binary_op(lhs, rhs, operation)

    def clamp(self: Any, arg: Any, low: Any, high: Any, propagate_nans: Any) -> Any:
        if str(propagate_nans).rpartition(".")[2].upper() == "ALL":
            return self.ternary_op(arg, low, high, np.clip)
        return self.ternary_op(arg, low, high, lambda x, lo, hi: np.fmin(np.fmax(x, lo), hi))

    builder.create_maxnumf, builder.create_minnumf = keeping(np.fmax), keeping(np.fmin)
    builder.create_clampf = clamp
    return seen


def interpret_unseen() -> None:
    """Have kernels interpreted from now on, without the variable of the environment that says so."""
    from triton import knobs

    # Past the knob's own setter, which would write the variable again.
    knobs.runtime.__dict__["interpret"] = True
    os.environ.pop("TRITON_INTERPRET", None)


def _lighten(interpreter: Any) -> None:
    """Leave out what costs much of the interpreter's time: a table of types that is rebuilt for each value."""
    import triton.language as tl

    plain = interpreter._get_np_dtype
    memo: dict[str, Any] = {}

    def np_dtype(kind: Any) -> Any:
        if type(kind) is not tl.dtype:  # pointers and blocks have no hash
            return plain(kind)
        found = memo.get(kind.name)
        if found is None:
            found = memo[kind.name] = plain(kind)
        return found

    interpreter._get_np_dtype = np_dtype


def _refine_numbers(builder: Any, handle: Any, seen: Seen) -> None:
    import numpy as np
    import torch
    import triton.language as tl

    plain_cast = builder.cast_impl

    def erf(self: Any, arg: Any) -> Any:
        values = torch.erf(torch.from_numpy(np.ascontiguousarray(arg.data))).numpy()
        return handle(values.reshape(arg.data.shape), arg.dtype.scalar)

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        target = dst_type.scalar
        if src.dtype.scalar == tl.float32 and target in (tl.float16, tl.bfloat16):
            seen.narrowed[str(target)] = seen.narrowed.get(str(target), 0) + 1
        return plain_cast(self, src, dst_type)

    builder.create_erf, builder.cast_impl = erf, cast


def _keep_truth_values(builder: Any) -> None:
    """What a comparison gave stays true or false where it is broadcast.

    Triton's handle of it still has the operands' type, and becomes numbers of that: 3.9 takes them for no mask.
    """
    plain = builder.create_splat

    def create_splat(self: Any, shape: Any, value: Any) -> Any:
        block = plain(self, shape, value)
        if value.data.dtype == bool:
            block.data = block.data.astype(bool)
        return block

    builder.create_splat = create_splat


#: Every byte of what an integer divided by zero is here, or its remainder: no address and no count that is right.
_UNSPECIFIED = 0x5A


def _unspecified_by_zero(plain: Callable[..., Any], handle: Any) -> Callable[..., Any]:
    """An integer division whose result by zero is garbage; numpy's 0 would often be what was meant.

    Source: the PTX ISA leaves what `div` gives for zero to the machine, LLVM's `sdiv` and `srem` leave it undefined.
    """
    import numpy as np

    def division(self: Any, lhs: Any, rhs: Any) -> Any:
        zero = rhs.data == 0
        if not np.any(zero):
            return plain(self, lhs, rhs)
        safe = handle(np.where(zero, np.ones_like(rhs.data), rhs.data), rhs.dtype)
        result = plain(self, lhs, safe)
        values = np.array(result.data)
        garbage = np.frombuffer(bytes([_UNSPECIFIED] * values.dtype.itemsize), dtype=values.dtype)[0]
        return handle(np.where(zero, garbage, values), result.dtype.scalar)

    return division


def change_stores(change: Callable[[Any, Any, Callable[[float], Any], bool], Any]) -> None:
    """Let `change` replace values that interpreted kernels store or add atomically, from now on.

    It is called as `change(values, lanes, constant_of, whole)` with NumPy arrays: what is stored, which lanes are, a
    function that makes an array of one value in the stored type, and whether that is one of integers. It returns
    what is stored instead. Integers that one lane adds or exchanges by itself are left alone: locks and counters.
    """
    import numpy as np
    from triton.runtime import interpreter

    from tilewright.toolchain.interpreting.narrow import NARROW, narrowed

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    plain_store, plain_add = builder.create_masked_store, builder.create_atomic_rmw

    def changed(value: Any, mask: Any, *, atomic: bool = False) -> Any:
        scalar, data = value.dtype.scalar, value.data
        whole = not scalar.is_floating()
        if whole and (atomic and data.size == 1):
            return value

        def constant_of(constant: float) -> Any:
            if scalar.name in NARROW:  # kept as integers of its bits
                return np.full_like(data, narrowed(scalar.name, np.array([constant], dtype=np.float32))[0])
            return np.full_like(data, round(8 * constant) if whole else constant)

        found = change(data, mask if isinstance(mask, np.ndarray) else mask.data, constant_of, whole)
        return value if found is data else handle(found, value.dtype)

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return plain_store(self, ptrs, changed(value, mask), mask, *rest)

    def atomic_rmw(self: Any, operation: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
        return plain_add(self, operation, ptr, changed(val, mask, atomic=True), mask, *rest)

    builder.create_masked_store, builder.create_atomic_rmw = store, atomic_rmw


def out_of_resources() -> Exception:
    """What a launch raises where the device has too little shared memory for it."""
    from triton.runtime.errors import OutOfResources

    return OutOfResources(1 << 30, 1 << 16, "shared memory")  # type: ignore[no-any-return]


def watch_programs(before: Callable[[str, int, int], None]) -> None:
    """Call `before(kernel, index, programs)` ahead of each program that the interpreter runs; it may raise."""
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    plain = builder.set_grid_idx

    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        nx, ny, nz = self.grid_dim
        before(getattr(self, "tilewright_kernel", ""), (x * ny + y) * nz + z, math.prod((nx, ny, nz)))
        plain(self, x, y, z)

    builder.set_grid_idx = set_grid_idx
