"""The commands that only look: `inspect`, `prompt`, `gpus`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tilewright.cli import options
from tilewright.cli.output import show, show_json


def inspect(
    path: options.TaskPath,
    reference: options.Reference = None,
    init: options.Init = None,
    inputs: options.Inputs = None,
    gpu: options.GpuName = None,
    stage: options.Stage = None,
    precision: options.Precision = None,
    as_json: options.Json = False,
) -> None:
    """Say what was understood of a task; nothing is tried.

    Exit code 0: understood; 2: bad input.
    """
    from tilewright.api import inspect as inspect_path
    from tilewright.report.data import inspection_report

    inspection = inspect_path(path, inputs, reference=reference, init=init, gpu=gpu, stage=stage, precision=precision)
    if as_json:
        show_json(inspection_report(inspection))
    else:
        from tilewright.report.terminal import inspection_view

        show(inspection_view(inspection))


def prompt(
    path: options.TaskPath,
    stage: Annotated[options.StageName, typer.Option("--stage", help="The stage that the document asks for.")],
    reference: options.Reference = None,
    gpu: options.GpuName = None,
) -> None:
    """Write the document for a task and a stage on stdout.

    Exit code 0: written; 2: bad input.
    """
    from tilewright.api import load
    from tilewright.task.compose import compose_document

    task = load(path, reference=reference, gpu=gpu, stage=stage)
    sys.stdout.write(compose_document(task, task.stages[0]))


def gpus(as_json: options.Json = False) -> None:
    """List the GPUs that are known, and the one that is installed."""
    from tilewright.gpu.detect import detect_gpu
    from tilewright.gpu.table import all_gpus
    from tilewright.report.data import gpus_report

    known, installed = all_gpus(), detect_gpu()
    if as_json:
        show_json(gpus_report(known, installed))
    else:
        from tilewright.report.terminal import gpus_view

        show(gpus_view(known, installed))
