"""Do the inputs fit the reference? One forward pass on shapes alone where torch can do that, else for real."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tilewright.errors import InputMismatchError, TilewrightError
from tilewright.task.module_source import build_module, described, location_in, make_inputs
from tilewright.task.python_source import location
from tilewright.task.task import ModuleSource

#: Words of an exception that is about this machine, not about the inputs.
_MACHINE_WORDS = ("cuda", "driver", "nvidia", "fake", "meta")


def check_inputs(source: ModuleSource) -> None:
    """Run the forward pass once on its own inputs and raise what does not fit.

    A pass on fake tensors needs no memory and no time. Where it fails, a real pass on the CPU decides, since
    fake tensors refuse some code that is right; and where an input's dtype is not the parameters', since they
    accept some that is wrong. Code that launches Triton kernels has no real pass without a GPU: its kernels
    are not launched, and a failure that is about the machine is passed over.

    Raises:
        SourceError: the module or its inputs cannot be made.
        InputMismatchError: forward raises on the inputs; the message has their shapes and what torch said.
    """
    fault: TilewrightError | None = None
    try:
        if _fake_forward(source):
            return
    except TilewrightError as error:
        fault = error
    if _launches_kernels(source):
        about_the_machine = fault is not None and any(word in fault.what.lower() for word in _MACHINE_WORDS)
        if fault is not None and not about_the_machine:
            raise fault
        return
    with torch.no_grad():
        _run(source, build_module(source), make_inputs(source))


def _launches_kernels(source: ModuleSource) -> bool:
    return "triton" in source.source


def _fake_forward(source: ModuleSource) -> bool:
    """One pass without values; True where it tells all that a real one would."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    if source.pickled is not None:
        module, given = build_module(source), make_inputs(source)
        inputs = [mode.from_tensor(item) if isinstance(item, torch.Tensor) else item for item in given]
    else:
        with mode:
            module, inputs = build_module(source), make_inputs(source)
    with mode, torch.no_grad(), _kernels_off():
        _run(source, module, inputs)
    expected = next((item.dtype for item in module.parameters()), torch.float32)
    return all(item.dtype == expected for item in inputs if isinstance(item, torch.Tensor))


def _run(source: ModuleSource, module: nn.Module, inputs: Sequence[Any]) -> None:
    try:
        module(*inputs)
    except Exception as error:  # whatever the user's forward raises
        raise _mismatch(source, module, inputs, error) from None


def _mismatch(source: ModuleSource, module: nn.Module, inputs: Sequence[Any], error: Exception) -> InputMismatchError:
    shown = ", ".join(_described_input(item) for item in inputs) or "no inputs"
    what = f"the inputs ({shown}) do not fit `{source.class_name}`: {described(error)}"
    where = None if source.pickled is not None else location_in(source, error) or location(source.path)
    return InputMismatchError(what, where=where, hint=_hint(module))


def _hint(module: nn.Module) -> str | None:
    """The first parameters' shapes: what the inputs would have to fit."""
    shapes = [f"{name} [{', '.join(map(str, item.shape))}]" for name, item in module.named_parameters()][:4]
    return f"its parameters: {', '.join(shapes)}" if shapes else None


def _described_input(item: Any) -> str:
    if isinstance(item, torch.Tensor):
        return f"[{', '.join(map(str, item.shape))}] {str(item.dtype).removeprefix('torch.')}"
    text = repr(item)
    return text if len(text) <= 40 else text[:37] + "..."


@contextlib.contextmanager
def _kernels_off() -> Iterator[None]:
    """Launch no Triton kernel, and let code that asks whether a fake tensor is on a GPU hear yes."""
    from triton.runtime.autotuner import Autotuner, Heuristics
    from triton.runtime.jit import JITFunction

    with contextlib.ExitStack() as stack:
        for kind in (Autotuner, Heuristics, JITFunction):
            stack.enter_context(mock.patch.object(kind, "run", return_value=None))
        stack.enter_context(mock.patch.object(FakeTensor, "is_cuda", property(lambda tensor: True), create=True))
        yield
