"""`tilewright profile` beside plain Nsight Compute, on the kernels of the documents.

    python -m benchmarks.counters --documents DIR [--only 001 ...] [--runs N] [--out FILE]

Each document's own code is profiled by Tilewright once and by `ncu` itself several times, clocks left alone. A metric
agrees where Tilewright's figure lies between the lowest and the highest of plain `ncu`, widened on both sides by that
spread and by a point (a duration: by 3 %): what two more runs of `ncu` may differ by.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cases import EXAMPLES, WORKLOADS
from benchmarks.workloads import RESULTS, no_gpu
from tilewright.values import profile as names

SCHEMA = "tilewright/counters/1"
#: What is compared: the documents' metrics, and the time.
METRICS = (*names.DOCUMENT_METRICS, names.DURATION_NS)
#: Points (percent of a duration) that a figure may lie outside the spread of a few runs.
POINT, PERCENT = 1.0, 3.0

#: The plain program: one forward pass of the document's code after warm-up, between profiler marks.
_PROGRAM = """
import importlib.util, runpy, sys, torch
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
spec = importlib.util.spec_from_file_location("given", sys.argv[1])
given = importlib.util.module_from_spec(spec); spec.loader.exec_module(given)
reference = runpy.run_path(sys.argv[2])
torch.manual_seed(0)
module = given.ModelNew(*reference["get_init_inputs"]()).cuda().eval()
inputs = [x.cuda() if isinstance(x, torch.Tensor) else x for x in reference["get_inputs"]()]
with torch.no_grad():
    for _ in range(3):
        module(*inputs)
    torch.cuda.synchronize(); torch.cuda.profiler.start()
    module(*inputs)
    torch.cuda.synchronize(); torch.cuda.profiler.stop()
"""


@dataclass(frozen=True)
class Row:
    """One metric of one kernel.

    Attributes:
        document, kernel, metric: what it is of.
        tilewright: what `tilewright profile` says; None where it has no such metric.
        plain: what each run of `ncu` says.
        agrees: see the module.
    """

    document: str
    kernel: str
    metric: str
    tilewright: float | None
    plain: tuple[float, ...]
    agrees: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Record; 0 where it ran, 2 for bad arguments, without a GPU or without `ncu`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counters", description=__doc__.split("\n\n")[0])
    parser.add_argument("--documents", type=Path, required=True, metavar="DIR", help="folder of the documents")
    parser.add_argument("--only", nargs="+", default=[], metavar="NUMBER", help="documents whose name starts so")
    parser.add_argument("--runs", type=int, default=2, help="of plain ncu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record")
    options = parser.parse_args(argv)
    if (problem := no_gpu()) is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    from tilewright.measure.ncu import find_ncu, ncu_version

    ncu = find_ncu()
    if ncu is None:
        print("error: ncu was not found", file=sys.stderr)
        return 2
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.counters", *(argv if argv is not None else sys.argv[1:])]),
        "gpu": "",
        "versions": {"ncu": ncu_version(ncu)},
        "rows": [],
        "notes": [],
    }
    path = options.out or RESULTS / f"{record['date'][:10]}-counters.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, example in WORKLOADS:
        paths = sorted(options.documents.glob(f"{number}*"))
        if not paths or (options.only and number not in options.only):
            continue
        started = time.monotonic()
        try:
            rows = compare(ncu, number, paths[0], EXAMPLES / f"{example}.py", options.runs, record)
        except Exception as error:
            record["notes"].append(f"{number}: {type(error).__name__}: {str(error)[:300]}")
            print(record["notes"][-1], flush=True)
            continue
        record["rows"] += [asdict(row) for row in rows]
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{number}: {sum(row.agrees for row in rows)} of {len(rows)} agree, {time.monotonic() - started:.0f} s")
        for row in rows:
            print(f"  {row.kernel}: {row.metric}: {row.tilewright} beside {row.plain}", flush=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"recorded in {path}")
    return 0


def compare(ncu: Path, number: str, document: Path, reference: Path, runs: int, record: dict[str, Any]) -> list[Row]:
    """Every metric of every Triton kernel of one document's code.

    Args:
        ncu: its path.
        number, document, reference: the document, and the file that says how its code is called.
        runs: of plain `ncu`.
        record: told of GPU and versions.
    """
    from tilewright.gpu.detect import detect_gpu
    from tilewright.measure.collect import collect_profile
    from tilewright.task.load import load_task

    installed = detect_gpu()
    task = load_task(document, reference=reference, gpu=installed.key if installed is not None else None)
    found = collect_profile(task)
    record["gpu"], record["versions"] = found.gpu, {**record["versions"], **found.versions}
    own = [kernel for kernel in found.kernels if not kernel.native]
    assert task.given_code is not None
    plain = [plain_metrics(ncu, task.given_code, reference, [kernel.kernel for kernel in own]) for _ in range(runs)]
    rows = []
    for kernel in own:
        for metric in METRICS:
            figures = tuple(run[kernel.kernel][metric] for run in plain)
            said = kernel.metrics.get(metric)
            rows.append(Row(number, kernel.kernel, metric, said, figures, agrees(metric, said, figures)))
    return rows


def agrees(metric: str, said: float | None, plain: Sequence[float]) -> bool:
    """Whether a figure lies within the spread of plain runs, as the module has it.

    Args:
        metric: its name; the grid's size must be the same.
        said: the figure; None where there is none.
        plain: the runs' figures.
    """
    if said is None or not plain:
        return False
    if metric == names.GRID_SIZE:
        return all(said == figure for figure in plain)
    low, high = min(plain), max(plain)
    room = (high - low) + (PERCENT / 100 * high if metric == names.DURATION_NS else POINT)
    return low - room <= said <= high + room


def plain_metrics(ncu: Path, code: str, reference: Path, kernels: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
    """Kernel -> metric -> the mean over its launches, from one run of `ncu`, read without Tilewright's reader.

    Raises:
        RuntimeError: `ncu` printed no table.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-counters-") as folder:
        program, given = Path(folder) / "program.py", Path(folder) / "given.py"
        program.write_text(_PROGRAM)
        given.write_text(code)
        command = [str(ncu), "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
        command += ["--print-units", "base", "--metrics", ",".join(METRICS)]
        command += [sys.executable, str(program), str(given), str(reference)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = read_table(done.stdout, kernels)
    if not found:
        raise RuntimeError(f"ncu printed no table: {(done.stdout + done.stderr)[-300:]}")
    return found


def read_table(text: str, kernels: Sequence[str]) -> dict[str, dict[str, float]]:
    """The raw page as CSV: a line of names, one of units, then one for each launch."""
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return {}
    rows = [row for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))) if row["ID"]]
    found: dict[str, dict[str, float]] = {}
    for kernel in kernels:
        launches = [row for row in rows if row["Kernel Name"] == kernel]
        if launches:
            found[kernel] = {
                metric: sum(float(row[metric].replace(",", "")) for row in launches) / len(launches)
                for metric in METRICS
            }
    return found


if __name__ == "__main__":
    sys.exit(main())
