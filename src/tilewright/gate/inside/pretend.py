"""A pretended CUDA device, so that code written for one runs its kernel path on a machine without.

Inside `pretend(gpu, real)`, every tensor says that it lies on `cuda:0`, factories that are asked for a CUDA
tensor make one on `real` (`cpu`, or `meta` where only shapes matter), moves to CUDA move nothing, and the
queries of `torch.cuda` and of Triton's driver are answered with the target's figures.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from tilewright.toolchain import triton_compat

_STATE = threading.local()
_CUDA = torch.device("cuda", 0)

#: Factories whose result nobody has written yet, by the name of the function.
_UNWRITTEN = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"})


def poison(tensor: torch.Tensor) -> torch.Tensor:
    """Fill with what no kernel means to write: NaN, or the integers' extreme; returns the tensor."""
    value: float | int | bool
    if tensor.is_floating_point() or tensor.is_complex():
        value = getattr(_STATE, "poison", None) or float("nan")
        value = min(value, torch.finfo(tensor.dtype).max)  # a type of 8 bits takes what it can hold; NaN stays
    elif tensor.dtype is torch.bool:
        value = True
    else:
        value = torch.iinfo(tensor.dtype).max
    _STATE.poisoning = True
    try:
        return tensor.fill_(value)
    finally:
        _STATE.poisoning = False


def set_poison(value: float | None) -> None:
    """What unwritten floating-point memory of this thread holds from now on; None for NaN."""
    _STATE.poison = value


def poisoning() -> bool:
    """True while `poison` fills: nobody who watches what is written should count it."""
    return bool(getattr(_STATE, "poisoning", False))


class Redirect(TorchFunctionMode):
    """Sends what is asked of a CUDA device to `real`, and poisons fresh memory.

    Args:
        real: where tensors really go; None leaves devices alone (a real GPU).
        poisoned: fill unwritten tensors with NaN.
    """

    def __init__(self, real: torch.device | None, *, poisoned: bool) -> None:
        super().__init__()
        self.real = real
        self.poisoned = poisoned

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func is torch.device:  # naming a device makes nothing there
            return func(*args, **options)
        if self.real is not None:
            if name in {"cuda", "pin_memory"} and args and isinstance(args[0], torch.Tensor):
                return args[0]
            if name == "get_device" and args:
                return 0
            args = tuple(self._redirect(arg) for arg in args)
            if name == "to" and len(args) > 1 and type(args[1]) is int:
                args = (args[0], self.real, *args[2:])
            options = {key: self._redirect(value) for key, value in options.items()}
            options.pop("pin_memory", None)
        if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket) and not _is_aten(func):
            # A custom operator's Python body is the candidate's own code: it sees the pretended device too.
            body = _body_of(func)
            if body is not None:
                with self:
                    return body(*args, **options)
            return func(*args, **options)
        with really():
            result = func(*args, **options)
        if self.poisoned and name in _UNWRITTEN and isinstance(result, torch.Tensor) and not result.is_meta:
            with really():
                poison(result)
        return result

    def _redirect(self, value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == "cuda":
            return self.real
        if isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")):
            return self.real
        return value


@contextlib.contextmanager
def really() -> Iterator[None]:
    """Within torch's own functions, and in the verifier, tensors say where they really are."""
    depth = getattr(_STATE, "depth", 0)
    _STATE.depth = depth + 1
    try:
        yield
    finally:
        _STATE.depth = depth


def _pretending() -> bool:
    return getattr(_STATE, "depth", 0) == 0


def _is_aten(func: Any) -> bool:
    name = func._schema.name if isinstance(func, torch._ops.OpOverload) else func._qualified_op_name
    return str(name).startswith(("aten::", "prims::", "prim::"))


def _body_of(func: Any) -> Callable[..., Any] | None:
    """The Python function behind an operator that `torch.library.custom_op` made; None for any other.

    To call the operator itself would bring the call back here, again and again.
    """
    from torch._library.custom_ops import OPDEFS

    name = func._schema.name if isinstance(func, torch._ops.OpOverload) else func._qualified_op_name
    made = OPDEFS.get(str(name).removesuffix(".default"))
    if made is None:
        return None
    bodies: Mapping[str | None, Callable[..., Any]] = made._backend_fns
    return bodies.get("cuda") or bodies.get(None) or made._init_fn


def _patched_property(name: str, pretended: Any) -> property:
    real = getattr(torch._C.TensorBase, name)
    return property(lambda tensor: pretended if _pretending() else real.__get__(tensor))


@contextlib.contextmanager
def pretend(gpu: Mapping[str, Any], real: str, *, poisoned: bool = True) -> Iterator[None]:
    """Pretend that the target `gpu` is there and that all tensors lie on it.

    Args:
        gpu: figures: `name`, `capability`, `sm_count`, `shared_bytes_per_block`, ... (fields of `Gpu`).
        real: device type that tensors really use: `cpu` or `meta`.
        poisoned: unwritten memory holds NaN.
    """
    with contextlib.ExitStack() as stack:
        for name, value in {"is_cuda": True, "device": _CUDA, "is_cpu": False, "is_meta": False}.items():
            stack.enter_context(_tensor_property(name, _patched_property(name, value)))
        # A word to the allocator, which has no streams here.
        stack.enter_context(_tensor_property("record_stream", lambda tensor, stream: None))
        for name, function in _queries(gpu).items():
            if hasattr(torch.cuda, name):
                stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(triton_compat.pretended_driver(gpu))
        stack.enter_context(Redirect(torch.device(real), poisoned=poisoned))
        yield


@contextlib.contextmanager
def _tensor_property(name: str, value: property | Callable[..., Any]) -> Iterator[None]:
    # torch.Tensor inherits these from its C base: setting them on the subclass hides, deleting uncovers.
    setattr(torch.Tensor, name, value)
    try:
        yield
    finally:
        delattr(torch.Tensor, name)


class _Nothing:
    """A stream, an event or a device guard that does nothing, in the order in which it is asked to."""

    cuda_stream = 0
    device = _CUDA

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 1.0

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def _queries(gpu: Mapping[str, Any]) -> dict[str, Any]:
    """The functions of `torch.cuda` that code asks before it launches, answered for the target."""
    major, minor = divmod(int(gpu["capability"]), 10)
    memory = int(float(gpu["memory_gb"]) * 10**9)

    def properties(*args: Any, **kwargs: Any) -> SimpleNamespace:
        # Asked anew each time: a run may pretend fewer multiprocessors.
        return SimpleNamespace(
            name=gpu["name"],
            major=major,
            minor=minor,
            total_memory=memory,
            multi_processor_count=gpu["sm_count"],
            warp_size=gpu["warp_size"],
            max_threads_per_multi_processor=gpu["max_threads_per_sm"],
            regs_per_multiprocessor=gpu["registers_per_sm"],
            shared_memory_per_block=48 << 10,
            shared_memory_per_block_optin=gpu["shared_bytes_per_block"],
            shared_memory_per_multiprocessor=gpu["shared_bytes_per_sm"],
            L2_cache_size=gpu["l2_bytes"],
            is_integrated=0,
        )

    def constant(value: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: value

    return {
        "is_available": constant(True),
        "is_initialized": constant(True),
        "device_count": constant(1),
        "current_device": constant(0),
        "set_device": constant(None),
        "get_device_properties": properties,
        "get_device_capability": constant((major, minor)),
        "get_device_name": constant(gpu["name"]),
        "get_arch_list": constant([f"sm_{gpu['capability']}"]),
        "is_bf16_supported": constant(True),
        "mem_get_info": constant((memory, memory)),
        "memory_allocated": constant(0),
        "max_memory_allocated": constant(0),
        "memory_reserved": constant(0),
        "max_memory_reserved": constant(0),
        "reset_peak_memory_stats": constant(None),
        "synchronize": constant(None),
        "_sleep": constant(None),
        "empty_cache": constant(None),
        "manual_seed": constant(None),
        "manual_seed_all": constant(None),
        "current_stream": constant(_Nothing()),
        "default_stream": constant(_Nothing()),
        "is_current_stream_capturing": constant(False),
        "Stream": _Nothing,
        "Event": _Nothing,
        "stream": _Nothing,
        "device": _Nothing,
        "device_of": _Nothing,
        "init": constant(None),
        "_lazy_init": constant(None),
    }
