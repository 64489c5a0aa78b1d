"""Every access of memory that an interpreted kernel makes, handed to an observer before it happens.

Triton's interpreter gives kernels plain numbers as pointers, which say nothing of the tensor that they came from
once an offset has been added. Here each tensor argument gets an address that carries its number in the upper 16
bits: whatever arithmetic a kernel does on it, an access still tells which argument it was meant for, also where it
has left it. The observer turns such addresses into real ones, and may keep lanes from being carried out.

The internals used are the same in Triton 3.6.0 and 3.7.1.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tilewright.toolchain.patched import patched
from tilewright.toolchain.triton_compat import DEFAULT_NUM_WARPS

Addresses = npt.NDArray[np.uint64]
Lanes = npt.NDArray[np.bool_]

#: Bits of an address below the number of its argument: user space addresses are shorter on every platform of torch.
TAG_SHIFT = 48
ADDRESS_MASK = (1 << TAG_SHIFT) - 1


@dataclass(frozen=True)
class Request:
    """One access as a kernel asks for it.

    Attributes:
        kind: `load`, `store` or `atomic`.
        addresses: byte addresses of all lanes, tagged; shape of the block.
        mask: lanes that are asked for; the same shape.
        element_bytes: size of what lies at an address.
        values: what is stored; None for loads.
    """

    kind: str
    addresses: Addresses
    mask: Lanes
    element_bytes: int
    values: Any = None


@dataclass(frozen=True)
class Grant:
    """What is done of a request: real addresses, the lanes carried out, and lanes whose loads give poison."""

    addresses: Addresses
    mask: Lanes
    poisoned: Lanes | None = None


class Observer(Protocol):
    """What is told of launches, programs and accesses."""

    def start_launch(self, kernel: str, warps: int) -> None:
        """A kernel is about to be launched, in programs of so many warps; its arguments follow."""

    def address_of(self, argument: str, tensor: Any) -> int:
        """The (tagged) address that a kernel is given for a tensor."""

    def start_grid(self, grid: tuple[int, int, int]) -> None:
        """All arguments are known, and so is the grid."""

    def wants(self, program: tuple[int, int, int]) -> bool:
        """Whether a program is to be run."""

    def grant(self, request: Request) -> Grant:
        """Note an access, and say what is to be done of it."""

    def meet(self, *, barrier: bool) -> None:
        """The threads of a program meet at a barrier, or hand each other values (a reduction, a product, ...)."""

    def end_launch(self) -> None:
        """The launch is over, or was given up."""


class EndProgramError(BaseException):
    """An observer has seen enough of the program that runs: the next one starts. Nobody catches it on its way out."""


@contextlib.contextmanager
def observed_memory(observer: Observer) -> Iterator[None]:
    """Within it, interpreted kernels report to `observer`; tensors may be on the CPU or meta."""
    from triton.runtime import interpreter

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    patches: list[tuple[Any, str, Any]] = [
        (executor, "__call__", lambda self, *args, **kwargs: _call(interpreter, observer, self, args, kwargs)),
        (builder, "create_masked_load", _load(interpreter, observer)),
        (builder, "create_masked_store", _store(interpreter, observer)),
        (builder, "create_atomic_rmw", _read_modify_write(interpreter, observer, builder.create_atomic_rmw)),
        (builder, "create_atomic_cas", _compare_and_swap(interpreter, observer, builder.create_atomic_cas)),
    ]
    patches += _meetings(interpreter, observer)
    with patched(patches):
        yield


#: Operations of the language after which a thread may hold what another one had.
_EXCHANGES = (
    "create_dot", "create_trans", "create_reshape", "create_gather", "create_histogram", "create_cat", "create_join",
    "create_split",
)  # fmt: skip


def _meetings(interpreter: Any, observer: Observer) -> list[tuple[Any, str, Any]]:
    """Patches that tell the observer where the threads of a program meet."""
    builder, reductions = interpreter.InterpreterBuilder, interpreter.ReduceScanOpInterface

    def telling(plain: Any, *, barrier: bool) -> Any:
        def told(*args: Any, **kwargs: Any) -> Any:
            observer.meet(barrier=barrier)
            return plain(*args, **kwargs)

        return told

    names = [name for name in _EXCHANGES if hasattr(builder, name)]
    return [
        (builder, "create_barrier", telling(builder.create_barrier, barrier=True)),
        (reductions, "apply", telling(reductions.apply, barrier=False)),
        *((builder, name, telling(getattr(builder, name), barrier=False)) for name in names),
    ]


def source_line() -> int:
    """Line of the kernel (or of a helper of it) that is being interpreted; 0 where there is none."""
    inside = _library_folders()
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if not frame.f_code.co_filename.startswith(inside):
            return frame.f_lineno
    return 0


@functools.cache
def _library_folders() -> tuple[str, ...]:
    import triton

    return str(Path(triton.__file__).parent), str(Path(__file__).parents[1])


# --- launches ------------------------------------------------------------------------------------------------


def _call(interpreter: Any, observer: Observer, executor: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
    """What `GridExecutor.__call__` does, without copies to and from a device, for the programs that are wanted."""
    names = inspect.getfullargspec(executor.fn).args
    options = {key: value for key, value in kwargs.items() if key in names}
    for hook in executor.pre_run_hooks:
        hook(*args, **options)
    scope = interpreter._patch_lang(executor.fn)
    plain_convert = interpreter._implicit_cvt
    argument = ""

    def convert(value: Any) -> Any:
        if not hasattr(value, "data_ptr"):
            return plain_convert(value)  # tuples and descriptors come back here, part by part
        return plain_convert(_Pointer(value.dtype, observer.address_of(argument, value)))

    interpreter._implicit_cvt = convert
    observer.start_launch(executor.fn.__name__, int(kwargs.get("num_warps") or DEFAULT_NUM_WARPS))
    try:
        bound: dict[str, Any] = {}
        for argument, value in inspect.getcallargs(executor.fn, *args, **options).items():
            bound[argument] = value if argument in executor.constexprs else convert(value)
        interpreter._implicit_cvt = plain_convert
        grid = executor.grid(bound) if callable(executor.grid) else executor.grid
        _run_grid(interpreter, observer, executor.fn, bound, tuple(grid))
    finally:
        interpreter._implicit_cvt = plain_convert
        observer.end_launch()
        scope.restore()


@dataclass(frozen=True)
class _Pointer:
    """Stands for a tensor where the interpreter asks for its type and address."""

    dtype: Any
    address: int

    def data_ptr(self) -> int:
        """The tagged address."""
        return self.address


def _run_grid(interpreter: Any, observer: Observer, fn: Any, bound: Mapping[str, Any], given: tuple[Any, ...]) -> None:
    padded = (*(int(size) for size in given), 1, 1, 1)
    grid = padded[0], padded[1], padded[2]
    builder = interpreter.interpreter_builder
    builder.set_grid_dim(*grid)
    observer.start_grid(grid)
    # An observer that wants few programs of many names them; the others are asked about each.
    programs = getattr(observer, "programs", lambda grid: itertools.product(*map(range, grid)))(grid)
    try:
        for x, y, z in programs:
            if observer.wants((x, y, z)):
                builder.set_grid_idx(x, y, z)
                with contextlib.suppress(EndProgramError):
                    fn(**bound)
    except Exception as error:
        raise interpreter.InterpreterError(repr(error)) from error


# --- accesses ------------------------------------------------------------------------------------------------


def _bytes_of(interpreter: Any, pointers: Any) -> tuple[Any, int]:
    kind = interpreter._get_np_dtype(pointers.get_element_ty())
    return kind, int(kind.itemsize)


def _lanes(mask: Any, like: Any) -> Lanes:
    data = mask if isinstance(mask, np.ndarray) else mask.data
    lanes = np.asarray(data, dtype=bool)
    return lanes if lanes.shape == like.shape else np.broadcast_to(lanes, like.shape)


def _load(interpreter: Any, observer: Observer) -> Any:
    def create_masked_load(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any, **options: Any) -> Any:
        kind, size = _bytes_of(interpreter, ptrs)
        grant = observer.grant(Request("load", ptrs.data, _lanes(mask, ptrs.data), size))
        fill = np.zeros(ptrs.data.shape, dtype=kind) if other is None else other.data
        if grant.poisoned is not None:
            fill = np.where(grant.poisoned, _poison(ptrs.get_element_ty(), kind), fill).astype(kind)
        found = interpreter._interpreter.load(grant.addresses, grant.mask, fill, kind)
        return interpreter.TensorHandle(found, ptrs.get_element_ty())

    return create_masked_load


def _poison(element: Any, kind: Any) -> Any:
    if kind.kind == "f":
        return kind.type(float("nan"))
    if "bf16" in str(element):
        return kind.type(0x7FC0)
    return kind.type(True) if kind.kind == "b" else np.iinfo(kind).max


def _store(interpreter: Any, observer: Observer) -> Any:
    def create_masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **options: Any) -> Any:
        _, size = _bytes_of(interpreter, ptrs)
        grant = observer.grant(Request("store", ptrs.data, _lanes(mask, ptrs.data), size, value.data))
        return interpreter._interpreter.store(grant.addresses, value.data, grant.mask)

    return create_masked_store


def _read_modify_write(interpreter: Any, observer: Observer, plain: Any) -> Any:
    def create_atomic_rmw(self: Any, operation: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
        _, size = _bytes_of(interpreter, ptr)
        grant = observer.grant(Request("atomic", ptr.data, _lanes(mask, ptr.data), size, val.data))
        real = interpreter.TensorHandle(grant.addresses, ptr.dtype)
        lanes = interpreter.TensorHandle(np.ascontiguousarray(grant.mask), mask.dtype)
        return plain(self, operation, real, val, lanes, *rest)

    return create_atomic_rmw


def _compare_and_swap(interpreter: Any, observer: Observer, plain: Any) -> Any:
    def create_atomic_cas(self: Any, ptr: Any, cmp: Any, val: Any, *rest: Any) -> Any:
        _, size = _bytes_of(interpreter, ptr)
        everywhere = np.ones(ptr.data.shape, dtype=bool)
        grant = observer.grant(Request("atomic", ptr.data, everywhere, size, val.data))
        if not grant.mask.all():  # no lane of it can be left out alone: nothing is exchanged
            return interpreter.TensorHandle(np.broadcast_to(cmp.data, ptr.data.shape).copy(), cmp.dtype.scalar)
        real = interpreter.TensorHandle(grant.addresses, ptr.dtype)
        return plain(self, real, cmp, val, *rest)

    return create_atomic_cas
