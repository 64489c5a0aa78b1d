"""Runs emitted modules in Triton's interpreter on the CPU, beside their reference in float64.

A script of its own, since the interpreter is chosen by an environment variable before triton is imported.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import json
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

warnings.filterwarnings("ignore")

from tilewright.graph.canonical import canonicalize  # noqa: E402
from tilewright.graph.capture import capture  # noqa: E402
from tilewright.kernels.module.classes import write_live_file  # noqa: E402
from tilewright.kernels.module.text import write_forward  # noqa: E402
from tilewright.kernels.planner import plan_module  # noqa: E402
from tilewright.kernels.steps import PlanOptions  # noqa: E402
from tilewright.toolchain.triton_compat import refine_interpreter  # noqa: E402

refine_interpreter()


def emit(module: nn.Module, inputs: Sequence[Any], options: PlanOptions) -> tuple[str, list[str]]:
    """Source of the drop-in for a live module, and what stayed native."""
    plan = plan_module(canonicalize(capture(module, inputs)).graph, options)
    return write_live_file(write_forward(plan), description="test"), list(plan.native)


def load(source: str, name: str) -> Any:
    """`ModelNew` of a source text."""
    filename = f"<emitted {name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    namespace: dict[str, Any] = {"__name__": f"emitted_{name}"}
    exec(compile(source, filename, "exec"), namespace)
    return namespace["ModelNew"]


def relative_error(module: nn.Module, drop_in: nn.Module, inputs: Sequence[torch.Tensor]) -> float:
    """Largest error of the drop-in on its kernel path against float64, relative to the largest output."""
    with torch.no_grad():
        expected = module.double()(*[x.double() for x in inputs])
        module.float()
        truth = torch.Tensor.is_cuda
        torch.Tensor.is_cuda = property(lambda self: True)
        try:
            got = drop_in(*inputs)
        finally:
            torch.Tensor.is_cuda = truth
    expected = expected if isinstance(expected, tuple | list) else (expected,)
    got = got if isinstance(got, tuple | list) else (got,)
    worst = 0.0
    for e, g in zip(expected, got, strict=True):
        if e.shape != g.shape or g.stride() != e.stride():
            raise AssertionError(f"shape {tuple(g.shape)}{g.stride()} instead of {tuple(e.shape)}{e.stride()}")
        if not torch.equal(torch.isnan(e), torch.isnan(g)):
            raise AssertionError("NaN in other places")
        finite = torch.isfinite(e.float())
        if not torch.equal(e[~finite & ~e.isnan()].float(), g[~finite & ~g.isnan()].float()):
            raise AssertionError("infinities in other places")
        if finite.any():
            scale = float(e[finite].abs().max()) or 1.0
            worst = max(worst, float((e - g.double())[finite].abs().max()) / scale)
    return worst


def check(
    make: Callable[[], tuple[nn.Module, list[torch.Tensor]]],
    others: Sequence[Sequence[tuple[int, ...]]],
    options: PlanOptions,
) -> dict[str, Any]:
    """One case: emitted once, run at the example's shapes and at others."""
    torch.manual_seed(0)
    module, inputs = make()
    module.eval()
    # beyond float16's range: anchors must go another way
    scales = (1e6, 1e-6) if options.convolution_anchors else ()
    source, native = emit(module, inputs, options)
    drop_in = load(source, type(module).__name__)(module)
    errors = [relative_error(module, drop_in, inputs)]
    for shapes in others:
        errors.append(relative_error(module, drop_in, [torch.randn(shape) for shape in shapes]))
    for scale in scales:
        errors.append(relative_error(module, drop_in, [x * scale for x in inputs]))
    return {"errors": errors, "native": native, "source": source, "kernels": source.count("@triton.jit")}


def main(cases: dict[str, tuple[Any, ...]], names: Sequence[str]) -> None:
    """Print one JSON object a line: the case's name and its result or what went wrong."""
    for name in names or cases:
        try:
            result = check(*cases[name])
        except Exception as error:
            result = {"problem": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(json.dumps({"name": name, **result}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.kernels.emission_cases import CASES

    main(CASES, sys.argv[1:])
