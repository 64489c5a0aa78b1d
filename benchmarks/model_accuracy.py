"""How well the model's metrics agree with Nsight Compute's, on the kernels of the documents.

    python -m benchmarks.model_accuracy [--documents DIR] [--out FILE]

Against the metrics inside the documents (RTX 4090) and against recorded ones of an H200. What is compiled depends on
the installed Triton: the documents do not say which one they had, the H200's had 3.6.0. A miss is named, not fitted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.cases import EXAMPLES, WORKLOADS
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.table import find_gpu
from tilewright.measure.predict import assemble, choose, given_candidate, model_launches, resident_programs
from tilewright.measure.seen import look, sample_accesses
from tilewright.task.load import load_task
from tilewright.values import profile as names
from tilewright.values.profile import KernelProfile

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ROOT.parent / "shared" / "seeds"
RECORDED = ROOT / "benchmarks" / "results" / "2026-11-21-h200-documents.json"

#: Metric -> how far a prediction may be off, in the metric's own points; the duration in percent of the measured one.
ALLOWED: Mapping[str, float] = {
    names.GRID_SIZE: 0.0,
    names.WARPS_ACTIVE: 10.0,
    names.DRAM_THROUGHPUT: 12.0,
    names.L2_HIT_RATE: 10.0,
    names.DURATION_NS: 25.0,
}


@dataclass(frozen=True)
class Row:
    """One metric of one kernel.

    Attributes:
        gpu, document, configuration, metric: what it is of.
        measured, predicted: its values.
        error: predicted - measured, in points; of a duration in percent.
        within: the error is allowed.
        registers: of the kernel as it was compiled here.
        measured_registers: as it was measured; None where the source does not say.
    """

    gpu: str
    document: str
    configuration: int
    metric: str
    measured: float
    predicted: float
    error: float
    within: bool
    registers: int | None
    measured_registers: int | None


def predictions(document: Path, reference: Path, gpu: Gpu, configurations: Sequence[int]) -> dict[int, Any]:
    """Configuration of the autotune list -> profile of the document's kernel (-1: the one that the model chooses)."""
    task = load_task(document, reference=reference, gpu=gpu.key)
    candidate = given_candidate(task)
    assert candidate is not None
    seen = look(task, candidate, gpu)
    found = {}
    for wanted in configurations:
        taken = []
        for kernel in seen.kernels:
            forms = kernel.configurations
            taken.append(forms[wanted] if forms and wanted >= 0 else choose(kernel, gpu, task.precision))
        index = next(
            (list(k.configurations).index(t) for k, t in zip(seen.kernels, taken, strict=True) if k.configurations), 0
        )
        launches, _ = sample_accesses(task, candidate, gpu, resident_programs(taken, gpu), index)
        models, notes = model_launches(taken, launches, gpu)
        profile = assemble(replace(seen, kernels=tuple(taken)), models, gpu, task.precision, notes)
        found[wanted] = profile.kernels[-1]
    return found


def compare(
    gpu: str, document: str, configuration: int, measured: Mapping[str, float], predicted: KernelProfile
) -> list[Row]:
    """The metrics that both have."""
    found = []
    for metric, allowed in ALLOWED.items():
        if metric not in measured or metric not in predicted.metrics:
            continue
        true, said = float(measured[metric]), float(predicted.metrics[metric])
        error = 100.0 * (said - true) / true if metric == names.DURATION_NS else said - true
        registers = measured.get(names.REGISTERS)
        found.append(
            Row(
                gpu, document, configuration, metric, true, said, error, abs(error) <= allowed,
                predicted.registers, None if registers is None else int(registers),
            )
        )  # fmt: skip
    return found


def rows(documents: Path) -> list[Row]:
    """All comparisons."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["rows"]
    found: list[Row] = []
    for number, name in WORKLOADS:
        [document] = sorted(documents.glob(f"{number}_*.txt"))
        reference = EXAMPLES / f"{name}.py"
        task = load_task(document, reference=reference)
        [predicted] = predictions(document, reference, find_gpu("4090"), [-1]).values()
        found += compare("RTX 4090", number, -1, task.metrics[predicted.kernel], predicted)
        own = {int(row["configuration"]): row for row in recorded if row["document"] == number}
        for configuration, profile in predictions(document, reference, find_gpu("h200"), sorted(own)).items():
            low, high = own[configuration]["low"], own[configuration]["high"]
            mean = {metric: (low[metric] + high[metric]) / 2 for metric in low}
            found += compare("H200", number, configuration, mean, profile)
    return found


def report(found: Sequence[Row]) -> str:
    """A table, and for each GPU and metric how many are within what is allowed."""
    lines = [f"triton {version('triton')}; errors in points, of durations in percent of the measured time", ""]
    for row in found:
        compiled = f"{row.registers} registers"
        if row.measured_registers not in (None, row.registers):
            compiled += f" (measured with {row.measured_registers}: another compiler)"
        which = row.document if row.configuration < 1 else f"{row.document}, configuration {row.configuration}"
        lines.append(
            f"{'   ' if row.within else 'MISS'} {row.gpu:9} {which:22} {row.metric:52} {row.measured:14.2f} "
            f"{row.predicted:14.2f} {row.error:+9.2f}  {compiled}"
        )
    lines.append("")
    for gpu in dict.fromkeys(row.gpu for row in found):
        for metric in ALLOWED:
            own = [row for row in found if row.gpu == gpu and row.metric == metric]
            if own:
                lines.append(
                    f"{gpu:9} {metric:52} {sum(row.within for row in own)} of {len(own)} within {ALLOWED[metric]:g}"
                )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, default=DOCUMENTS, help="folder of the documents (*.txt)")
    parser.add_argument("--out", type=Path, help="write the comparisons as JSON")
    options = parser.parse_args(arguments)
    found = rows(options.documents)
    print(report(found))
    if options.out is not None:
        data = {"versions": {"triton": version("triton")}, "rows": [asdict(row) for row in found]}
        options.out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
