"""Why a capture failed: inputs that do not fit, or an operation that torch.export cannot follow."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from tilewright.errors import CaptureError, InputMismatchError, SourceLocation


def check_call(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Tell inputs that do not fit from a module that cannot be captured, by calling it on meta tensors.

    Raises:
        InputMismatchError: the call fails there too, for a reason that is the inputs'.
    """
    try:
        tensors = [*module.parameters(), *module.buffers()]
        meta = copy.deepcopy(module, {id(tensor): _meta_twin(tensor) for tensor in tensors}).to("meta")
    except Exception:  # a module that cannot be copied: nothing is known
        return
    try:
        with torch.no_grad():
            meta(*pytree.tree_map_only(torch.Tensor, _meta_twin, inputs))
    except NotImplementedError:
        return
    except Exception as error:
        shapes = ", ".join(str(tuple(v.shape)) for v in pytree.tree_leaves(inputs) if isinstance(v, torch.Tensor))
        if isinstance(error, RuntimeError | TypeError | ValueError) and "meta" not in str(error).lower():
            raise InputMismatchError(
                f"the inputs (shapes {shapes}) do not fit the reference: {_first_line(error)}",
                hint="check the inputs' number, shapes and dtypes against the module's forward()",
            ) from error


def _meta_twin(value: torch.Tensor) -> torch.Tensor:
    twin = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return nn.Parameter(twin, value.requires_grad) if isinstance(value, nn.Parameter) else twin


def capture_error(problem: Exception) -> CaptureError:
    """The error for people: what stopped the capture, and where in the user's code."""
    where, operation = _stopping_place(problem)
    named = f" (stopped by `{operation}`)" if operation else ""
    return CaptureError(
        f"the reference cannot be captured{named}: {_first_line(problem)}",
        where=where,
        hint="torch.export needs a forward pass without control flow on tensor values",
    )


def _stopping_place(problem: BaseException) -> tuple[SourceLocation | None, str]:
    """The user's line that stopped the capture, and its text: the innermost frame outside of torch."""
    library = str(Path(torch.__file__).parent)
    place: tuple[SourceLocation | None, str] = (None, "")
    for frame in traceback.extract_tb(problem.__traceback__):
        own = frame.filename.startswith((library, str(Path(__file__).parent))) or frame.filename.startswith("<")
        if not own and frame.lineno is not None and "site-packages" not in frame.filename:
            place = (SourceLocation(frame.filename, frame.lineno), (frame.line or "").strip())
    return place


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.export logs and prints what it retries; the caller reports what matters."""
    names = (
        "torch.export",
        "torch._dynamo",
        "torch._subclasses.fake_tensor",
        "torch.fx.experimental.symbolic_shapes",
        "torch._export",
    )
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
