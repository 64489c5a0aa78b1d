"""Precision: errors against float64 where the input is tiny, huge or of mixed scale, the reference beside ours.

    python -m benchmarks.precision [--cases workloads] [--only NAME ...] [--jobs 8] [--out DIR] [--candidates DIR]

The input is multiplied by powers of ten from 1e-30 to 1e30, by another one for each sample, or for each element. An
error is norm-wise, of the worst sample, so that a sample of small values counts as much as one of large values. Ours
is what `tilewright` plans first for the module, or what lies in DIR/<case>/model_new.py. Ours may have twice the
reference's error in its precision class, and a few units in the last place; non-finite values must lie where the
reference has them.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cases import CASE_LISTS, Case
from benchmarks.check import leaves
from benchmarks.peers import prepare_torch
from benchmarks.workloads import RESULTS, cases_asked_for, device, versions
from tilewright.values.serialise import as_json

#: Powers of ten that the input is multiplied by.
EXPONENTS = (-30, -20, -12, -6, -3, 0, 3, 6, 12, 20, 30)

#: Ours may have so many times the reference's error ...
FACTOR = 2.0
#: ... and so many units in the last place of the output's type.
ULPS = 16.0


@dataclass(frozen=True)
class PrecisionRow:
    """One module under one scaling of its input.

    Attributes:
        case: its name.
        scaling: `1e-30`, ..., `samples` or `elements` (each times its own power of ten).
        reference: error of the reference in its precision class, of the worst sample.
        ours: the same of ours.
        allowed: what ours may have.
        passed: ours is within it, and has non-finite values where the reference has them.
        failure: why there are no errors.
    """

    case: str
    scaling: str
    reference: float = math.nan
    ours: float = math.nan
    allowed: float = math.nan
    passed: bool = False
    failure: str = ""


def scalings(x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Factors for a tensor, by name: powers of ten, one for each sample, one for each element."""
    for exponent in EXPONENTS:
        yield f"1e{exponent}", torch.full((), 10.0**exponent, dtype=torch.float32, device=x.device)
    generator = torch.Generator(device=x.device).manual_seed(0)
    shape = (x.shape[0],) + (1,) * (x.dim() - 1)
    for name, spread, size in (("samples", 15.0, shape), ("elements", 6.0, tuple(x.shape))):
        drawn = torch.empty(size, dtype=torch.float32, device=x.device).uniform_(-spread, spread, generator=generator)
        yield name, torch.pow(10.0, drawn)


def worst_sample(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest norm-wise relative error of a sample; infinite where kinds of values differ."""
    worst = 0.0
    for got, right in zip(found, expected, strict=True):
        got, right = got.double().reshape(len(got), -1), right.double().reshape(len(right), -1)
        finite = torch.isfinite(right)
        if not torch.equal(torch.isfinite(got), finite):
            return math.inf
        zero = torch.zeros((), dtype=torch.float64, device=right.device)
        error = torch.where(finite, got - right, zero).norm(dim=1)
        size = torch.where(finite, right, zero).norm(dim=1)
        ratios = torch.where(size > 0, error / size, torch.where(error > 0, math.inf, zero))
        worst = max(worst, float(ratios.max()))
    return worst


def exact_output(module: nn.Module, inputs: Sequence[torch.Tensor], like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """float64's output, rounded to the range of the reference's type: what exceeds it is infinite there."""
    wide = copy.deepcopy(module).double()
    outputs = leaves(wide(*[x.double() if x.is_floating_point() else x for x in inputs]))
    return [
        torch.where(value.abs() > torch.finfo(other.dtype).max, value * math.inf, value)
        for value, other in zip(outputs, like, strict=True)
    ]


def measure_case(case: Case, ours: Callable[..., Any], module: nn.Module, inputs: Sequence[Any]) -> list[PrecisionRow]:
    """A row for each scaling of the first input."""
    rows = []
    for name, factor in scalings(inputs[0]):
        given = [(inputs[0].float() * factor).to(inputs[0].dtype), *inputs[1:]]
        rows.append(_measured(PrecisionRow(case.name, name), ours, module, given))
    return rows


def _measured(
    row: PrecisionRow, ours: Callable[..., Any], module: nn.Module, given: Sequence[torch.Tensor]
) -> PrecisionRow:
    try:
        with torch.no_grad():
            reference, found = leaves(module(*given)), leaves(ours(*given))
            expected = exact_output(module, given, reference)
    except Exception as error:
        return replace(row, failure=f"{type(error).__name__}: {str(error)[:200]}")
    own, got = worst_sample(reference, expected), worst_sample(found, expected)
    same_kinds = all(torch.equal(torch.isfinite(a), torch.isfinite(b)) for a, b in zip(found, reference, strict=True))
    if math.isinf(own):  # the reference itself overflows on the way; ours may or may not
        return replace(row, reference=own, ours=got, allowed=own, passed=True)
    allowed = FACTOR * own + ULPS * max(float(torch.finfo(value.dtype).eps) for value in reference)
    return replace(row, reference=own, ours=got, allowed=allowed, passed=same_kinds and got <= allowed)


# -- ours -------------------------------------------------------------------------------------------------


def cut(inputs: Sequence[Any], elements: int) -> list[Any]:
    """The inputs; a single tensor with no more samples than make so many elements, but with two at least."""
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        return list(inputs)
    samples = max(2, elements // max(1, inputs[0][0].numel()))
    return [inputs[0][:samples].contiguous()]


def prepare_case(case: Case, elements: int, candidates: Path | None) -> tuple[Callable[..., Any], nn.Module, list[Any]]:
    """Ours, the reference and its inputs on the GPU; the inputs are cut to about so many elements."""
    from tilewright.task.module_source import build_module, init_args, make_inputs
    from tilewright.task.task import ModuleSource

    torch.manual_seed(0)
    source = ModuleSource(source=case.source, class_name="Model")
    module = build_module(source).eval()
    inputs = cut(make_inputs(source), elements)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is not None:
            child.running_mean.normal_()
            child.running_var.uniform_(0.5, 2.0)
    code = our_source(case, candidates)
    ours = build_module(ModuleSource(source=code, class_name="ModelNew", init_args=init_args(source))).eval()
    ours.load_state_dict(module.state_dict())
    return ours.cuda(), module.cuda(), [x.cuda() if isinstance(x, torch.Tensor) else x for x in inputs]


def our_source(case: Case, candidates: Path | None) -> str:
    """The module that is planned first, or the one in the folder."""
    if candidates is not None:
        return (candidates / case.name / "model_new.py").read_text(encoding="utf-8")
    from tilewright.proposers.synthesize import synthesize
    from tilewright.task.load import load_task

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{case.name.replace('.', '_')}.py"
        path.write_text(case.source, encoding="utf-8")
        planned = synthesize(load_task(path, precision=case.precision))
    if not planned:
        raise LookupError("nothing was planned for it")
    return planned[0].source


# -- the command ------------------------------------------------------------------------------------------


def table(rows: Sequence[PrecisionRow]) -> str:
    """A line for each row."""
    lines = [f"{'case':34} {'input times':12} {'reference':>11} {'ours':>11} {'allowed':>11}"]
    for row in rows:
        verdict = row.failure or ("" if row.passed else "too large")
        numbers = f"{row.reference:11.2e} {row.ours:11.2e} {row.allowed:11.2e}"
        lines.append(f"{row.case:34} {row.scaling:12} {numbers}  {verdict}".rstrip())
    passed = sum(row.passed for row in rows)
    return "\n".join([*lines, "", f"{passed} of {len(rows)} within what is allowed"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table; 0 where all is within what is allowed, 1 where not, 2 for bad arguments or without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASE_LISTS), default=["workloads"], help="lists of cases")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="cases whose name starts so")
    parser.add_argument("--elements", type=int, default=1 << 22, help="of a single input, at most")
    parser.add_argument("--candidates", type=Path, metavar="DIR", help="take ours from DIR/<case>/model_new.py")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time, each in a process of its own")
    parser.add_argument("--rows", action="store_true", help="print the rows as JSON, and record nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the record")
    options = parser.parse_args(argv)
    if (cases := cases_asked_for(options)) is None:
        return 2
    if options.jobs > 1:
        with ThreadPoolExecutor(options.jobs) as pool:
            rows = [row for part in pool.map(lambda case: in_process(case, options), cases) for row in part]
    else:
        rows = [row for case in cases for row in rows_of(case, options)]
    if options.rows:
        print(json.dumps([as_json(row) for row in rows]))
        return 0
    print(table(rows))
    print(f"recorded in {record(rows, options.out, options.cases)}")
    return 0 if all(row.passed for row in rows) else 1


def rows_of(case: Case, options: argparse.Namespace) -> list[PrecisionRow]:
    """All rows of a case; one with a failure where it cannot be run."""
    prepare_torch(case.precision)
    try:
        return measure_case(case, *prepare_case(case, options.elements, options.candidates))
    except Exception as error:
        return [PrecisionRow(case.name, "", failure=f"{type(error).__name__}: {str(error)[:300]}")]


def in_process(case: Case, options: argparse.Namespace) -> list[PrecisionRow]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.precision", "--rows", "--cases", *options.cases]
    command += ["--only", case.name, "--elements", str(options.elements)]
    command += ["--candidates", str(options.candidates)] if options.candidates is not None else []
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parent.parent
    )
    try:
        return [PrecisionRow(**_numbers(row)) for row in json.loads(done.stdout.splitlines()[-1])]
    except (ValueError, IndexError, TypeError):
        return [PrecisionRow(case.name, "", failure=f"exit code {done.returncode}: {done.stderr[-300:]}")]


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinities: they come as text."""
    return {name: float(value) if name in ("reference", "ours", "allowed") else value for name, value in row.items()}


def record(rows: Sequence[PrecisionRow], folder: Path, lists: Sequence[str]) -> Path:
    """Write the rows as JSON; returns where."""
    gpu, driver = device()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    name = "-".join("".join(c if c.isalnum() else " " for c in gpu.lower().removeprefix("nvidia")).split())
    path = folder / f"{date[:10]}-{name or 'gpu'}-precision-{'-'.join(lists)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"date": date, "gpu": gpu, "driver": driver, "versions": versions(), "rows": [as_json(r) for r in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
