"""`tilewright profile`: measure, model, or import the profile of a forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli import options
from tilewright.cli.output import show, show_json


def profile(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A Python file with Model (and ModelNew), or a document; with --import a profile's file.",
            show_default=False,
        ),
    ],
    reference: options.Reference = None,
    init: options.Init = None,
    inputs: options.Inputs = None,
    gpu: options.GpuName = None,
    precision: options.Precision = None,
    model: Annotated[bool, typer.Option("--model", help="Predict it for --gpu; no GPU is needed.")] = False,
    read: Annotated[
        bool,
        typer.Option("--import", help="PATH is a profile: `ncu --csv` output, an .ncu-rep, a document or its JSON."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Say what each kernel of a forward pass does to the GPU: Nsight Compute's metrics, measured or modelled.

    Exit code 0: done; 2: bad input, or no GPU and no --model.
    """
    from tilewright.api import profile as profile_path
    from tilewright.report.profile import profile_report, profile_view

    found = profile_path(
        path,
        reference=reference,
        init=init,
        inputs=inputs,
        gpu=gpu,
        precision=precision,
        model=model,
        read=read,
    )
    if as_json:
        show_json(profile_report(found))
    else:
        show(profile_view(found))
