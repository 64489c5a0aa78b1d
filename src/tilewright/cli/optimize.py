"""`tilewright optimize`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from tilewright.cli import llm_options, options
from tilewright.cli.output import progress_bar, show, show_json
from tilewright.errors import ExitCode

_DEFAULT_OUT = Path("runs")


def optimize(
    path: options.TaskPath,
    reference: options.Reference = None,
    init: options.Init = None,
    inputs: options.Inputs = None,
    gpu: options.GpuName = None,
    stage: options.Stage = None,
    precision: options.Precision = None,
    effort: options.Effort = options.EffortName.QUICK,
    rules: options.RuleSet = options.Rules.STANDARD,
    out: options.Out = None,
    study: options.StudyFile = None,
    also_inputs: options.AlsoInputs = None,
    again: options.Again = False,
    graphs: options.Graphs = False,
    keep: options.Keep = False,
    fleet: options.FleetOption = None,
    workers: options.Workers = None,
    llm: llm_options.Model = None,
    llm_samples: llm_options.Samples = llm_options.DEFAULT.samples,
    llm_repairs: llm_options.Repairs = llm_options.DEFAULT.repairs,
    llm_requests: llm_options.Requests = llm_options.DEFAULT.budget.requests,
    llm_tokens: llm_options.Tokens = llm_options.DEFAULT.budget.tokens,
    llm_reply_tokens: llm_options.ReplyTokens = llm_options.DEFAULT.reply_tokens,
    llm_seconds: llm_options.Seconds = llm_options.DEFAULT.budget.seconds,
    llm_cost: llm_options.Cost = None,
    llm_price: llm_options.PriceText = None,
    as_json: options.Json = False,
) -> None:
    """Find a faster module, verify it, and write it with its evidence.

    Writes model_new.py, report.json and report.html to the folder of results. Exit code 0: a verified module
    was written; 1: nothing better was found, or torch.compile is faster (--keep writes ours all the same), the
    reason is printed; 2: bad input, nothing was written.
    """
    from tilewright.api import optimize_file
    from tilewright.report.data import study_report
    from tilewright.report.files import MODEL_NAME

    folder = out or _DEFAULT_OUT / path.stem
    settings = llm_options.settings(
        llm,
        samples=llm_samples,
        repairs=llm_repairs,
        requests=llm_requests,
        tokens=llm_tokens,
        reply_tokens=llm_reply_tokens,
        seconds=llm_seconds,
        cost=llm_cost,
        price=llm_price,
    )
    with options.fleet_of(fleet, workers) as workforce, progress_bar(f"optimising {path.name}") as progress:
        result = optimize_file(
            path,
            reference=reference,
            init=init,
            inputs=inputs,
            gpu=gpu,
            stage=stage,
            precision=precision,
            strict=rules is options.Rules.STRICT,
            effort=effort,
            out=folder,
            study=study,
            progress=progress,
            command=shlex.join(["tilewright", *sys.argv[1:]]),
            llm=settings,
            again=again,
            also_inputs=also_inputs or (),
            fleet=workforce,
            cuda_graphs=graphs,
            keep=keep,
        )
    names = ["report.json", "report.html"] if result.best is None else [MODEL_NAME, "report.json", "report.html"]
    if as_json:
        show_json(study_report(result, [str(folder / name) for name in names]))
    else:
        from tilewright.report.terminal import study_view

        show(study_view(result))
        typer.echo(f"written to {folder}: {', '.join(names)}")
    raise typer.Exit(ExitCode.REJECTED if result.best is None else ExitCode.OK)
