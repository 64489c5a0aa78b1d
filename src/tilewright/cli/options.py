"""Arguments and options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.values.precision import PrecisionClass

if TYPE_CHECKING:
    from tilewright.search.fleet import Fleet


class StageName(StrEnum):
    """What `--stage` takes: the stages, and the document's own."""

    GRID_AND_PARALLEL = "grid_and_parallel"
    BLOCK_TILING = "block_tiling"
    MEMORY_ACCESS = "memory_access"
    ADVANCED_MEMORY = "advanced_memory"
    MEMORY_AND_TUNING = "memory_and_tuning"
    DOCUMENT = "document"


class EffortName(StrEnum):
    """What `--effort` takes."""

    NONE = "none"
    QUICK = "quick"
    FULL = "full"


class Rules(StrEnum):
    """What `--rules` takes."""

    STANDARD = "standard"
    STRICT = "strict"


TaskPath = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A document, or a Python file with Model, get_inputs and get_init_inputs.",
        show_default=False,
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option("--reference", metavar="FILE", help="For a document: the Python file that says what is right."),
]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="LIST", help="For a document without reference: constructor arguments, '[64, 3]'."),
]
Inputs = Annotated[
    str | None,
    typer.Option("--inputs", metavar="LIST", help="For a document without reference: inputs, 'rand(128, 64)'."),
]
GpuName = Annotated[
    str | None,
    typer.Option(
        "--gpu", metavar="NAME", help="Target: a name of `tilewright gpus`, or a TOML file that describes one."
    ),
]
Stage = Annotated[
    StageName | None,
    typer.Option("--stage", help="The one stage to run ('document': the document's own); all of them otherwise."),
]
Precision = Annotated[
    PrecisionClass | None,
    typer.Option("--precision", help="Precision class; documents default to tf32, modules to torch's own flags."),
]
Effort = Annotated[EffortName, typer.Option("--effort", help="How much to try.")]
RuleSet = Annotated[
    Rules, typer.Option("--rules", help="'strict': one literal tl.store for each output and nothing else.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder of the results; default: runs/ and the name of PATH."),
]
StudyFile = Annotated[
    Path | None,
    typer.Option("--study", metavar="FILE", help="The study store; default: study.sqlite in the folder of results."),
]
AlsoInputs = Annotated[
    list[str] | None,
    typer.Option(
        "--also-inputs",
        metavar="LIST",
        help="Further inputs on which the result should be fast, as --inputs; may be repeated.",
    ),
]
Again = Annotated[bool, typer.Option("--again", help="Search also where the study holds a finished run for this task.")]
Graphs = Annotated[
    bool, typer.Option("--graphs", help="Calls will be captured in CUDA graphs: the GPU's time alone decides.")
]
Keep = Annotated[bool, typer.Option("--keep", help="Write the fastest of ours also where torch.compile is faster.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]


class FleetName(StrEnum):
    """What `--fleet` takes."""

    RAY = "ray"


FleetOption = Annotated[
    FleetName | None,
    typer.Option("--fleet", help="Work on all workers of a Ray cluster (RAY_ADDRESS, or one started here)."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="With --fleet: how many workers at most; default: all there are.")
]


@contextlib.contextmanager
def fleet_of(name: FleetName | None, workers: int | None) -> Iterator[Fleet | None]:
    """The fleet that `--fleet` asks for, while it is needed; None without one.

    Raises:
        FleetError: it cannot be used.
    """
    if name is None:
        yield None
        return
    from tilewright.search.fleet import Fleet

    with Fleet(workers) as fleet:
        yield fleet
