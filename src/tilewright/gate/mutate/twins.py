"""Are two sources the same function? Asked by running both, in a sandboxed process, on many random inputs.

Used on mutants that the gate accepts: what differs nowhere is taken as equivalent, what differs is a hole.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilewright.gate.inside import runtime
from tilewright.gate.inside.pretend import really
from tilewright.gate.reference.subject import leaves, map_leaves
from tilewright.gpu.gpu import Gpu
from tilewright.sandbox.job import Limits, Outcome, run_job
from tilewright.task.input_spec import parse_inputs
from tilewright.task.module_source import make_inputs
from tilewright.task.task import ModuleSource

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]

#: Norm-wise relative difference up to which outputs differ by the order of operations alone.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Twins:
    """What was found.

    Attributes:
        same: no difference was seen, but for rounding.
        compared: draws on which both ran.
        difference: the first difference, for people; empty where there is none.
    """

    same: bool
    compared: int
    difference: str


def compare_sources(
    original: str, changed: str, arguments: Sequence[Any], inputs: Sequence[str], gpu: Gpu, *, deadline_s: float = 240.0
) -> Twins:
    """Run both sources' `ModelNew` in the interpreter, with the same weights, on each of the inputs.

    Args:
        original, changed: Python files.
        arguments: of the constructor, literals.
        inputs: texts as `--inputs` takes them, one for each draw; ways to fill them are taken in turn.
        gpu: that is pretended.
        deadline_s: wall seconds for all draws.
    """
    job = {
        "entry": "tilewright.gate.mutate.twins:run",
        "arguments": list(arguments),
        "inputs": list(inputs),
        "gpu": runtime.gpu_figures(gpu),
        "device": "cpu",
    }
    result = run_job(
        job, deadline_s=deadline_s, limits=Limits(), environment={"TRITON_INTERPRET": "1"},
        files={"original.py": original, "changed.py": changed},
    )  # fmt: skip
    compared = [part.data for part in result.parts]
    different = next((data["difference"] for data in compared if data["difference"]), "")
    if not different and result.outcome is not Outcome.OK:
        different = f"its process: {result.message}"
    return Twins(not different, len(compared), different)


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry in the sandboxed process. Parts: `draw I`."""
    arguments = [tuple(a) if isinstance(a, list) else a for a in job["arguments"]]
    with runtime.kernel_environment(job):
        models = []
        for name in ("original", "changed"):
            torch.manual_seed(0)
            models.append(_load(Path.cwd() / f"{name}.py").ModelNew(*arguments).eval().requires_grad_(False))
        for index, text in enumerate(job["inputs"]):
            emit(f"draw {index}", {"difference": _difference(models, text, index)}, None)


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _difference(models: Sequence[torch.nn.Module], text: str, index: int) -> str:
    """What differs on one draw; empty for nothing."""
    with really():
        drawn = _fill(make_inputs(ModuleSource("", "ModelNew", inputs=parse_inputs(text)), seed=index), index)
    answers: list[list[torch.Tensor] | str] = []
    for model in models:
        torch.manual_seed(index)
        with really():
            mine = map_leaves(drawn, lambda tensor: tensor.clone())
        try:
            with torch.no_grad():
                found = leaves(model(*mine))
            with really():
                answers.append([*(leaf.detach().clone() for leaf in found), *leaves(mine)])
        except Exception as error:
            answers.append(f"{type(error).__name__}: {str(error)[:200]}")
    first, second = answers
    if isinstance(first, str):
        return ""  # the original does not accept this draw
    if isinstance(second, str):
        return f"{text}: {second}"
    with really():
        packed = all(leaf.is_contiguous() for leaf in leaves(drawn))
        return next(
            (f"{text}: {words}" for a, b in zip(first, second, strict=False) if (words := _apart(a, b, packed))), ""
        )


def _fill(drawn: list[Any], index: int) -> list[Any]:
    """Values in several ranges and layouts, in turn."""
    factor = (1.0, -3.0, 100.0, 0.0, 1e-3, 1e4)[index % 6]

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        values = (tensor - 0.3) * factor
        if index % 8 == 7 and values.numel() > 2:
            values.view(-1)[0], values.view(-1)[-1] = float("nan"), float("inf")
        if index % 5 == 4 and values.dim() > 1:
            # The same values in another layout.
            return values.transpose(-1, -2).contiguous().transpose(-1, -2)
        return values

    filled: list[Any] = map_leaves(drawn, fill)
    return filled


def _apart(a: torch.Tensor, b: torch.Tensor, packed: bool) -> str:
    """The difference of two outputs; as in the gate, strides count where the inputs are `packed`."""
    if a.shape != b.shape or a.dtype != b.dtype or (packed and a.stride() != b.stride()):
        return f"{tuple(a.shape)} {a.dtype} {a.stride()} and {tuple(b.shape)} {b.dtype} {b.stride()}"
    x, y = a.double(), b.double()
    finite = torch.isfinite(x)
    kind = (torch.isnan(x) & torch.isnan(y)) | (x == y) | (finite & torch.isfinite(y))
    if not bool(kind.all()):
        return f"{int((~kind).sum())} of {kind.numel()} elements are finite in one alone"
    size, apart = float(x[finite].norm()), float((x - y)[finite].norm())
    return f"relative difference {apart / max(size, 1e-300):.2g}" if apart > ROUNDING * size else ""
