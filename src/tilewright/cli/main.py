"""The command: its parts, and how every error ends."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from tilewright import __version__
from tilewright.cli.diagnose import diagnose
from tilewright.cli.look import gpus, inspect, prompt
from tilewright.cli.mcp_command import mcp
from tilewright.cli.optimize import optimize
from tilewright.cli.output import complain, show_json
from tilewright.cli.profile import profile
from tilewright.cli.study import app as study_app
from tilewright.cli.suite import suite
from tilewright.cli.verify import explain, verify
from tilewright.errors import ExitCode, TilewrightError

#: Exit code of an error that is ours (EX_SOFTWARE of sysexits.h).
INTERNAL_ERROR = 70

app = typer.Typer(
    name="tilewright",
    help="The GPU kernel specialist, as a program: a PyTorch module in, a verified, faster Triton module and its "
    "evidence out.",
    epilog="Exit codes: 0 done; 1 rejected, nothing better found, or torch.compile is faster; 2 bad input, nothing "
    "written; 70 an error of ours.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (optimize, suite, verify, diagnose, profile, inspect, prompt, gpus, explain, mcp):
    app.command()(command)
app.add_typer(study_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tilewright {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command and leave with its exit code; a traceback is shown for `--debug` alone."""
    as_json = "--json" in sys.argv[1:]
    try:
        app(prog_name="tilewright")
    except TilewrightError as error:
        if _debugging():
            raise
        complain(str(error))
        if as_json:
            show_json(_error_object(type(error).__name__, error.what, int(error.exit_code), error))
        sys.exit(int(error.exit_code))
    except Exception as error:
        if _debugging():
            raise
        complain(f"unexpected {type(error).__name__}: {_first_line(error)}")
        complain("this is an error of ours; `tilewright --debug ...` shows where")
        if as_json:
            show_json(_error_object(type(error).__name__, _first_line(error), INTERNAL_ERROR))
        sys.exit(INTERNAL_ERROR)
    except SystemExit as leaving:
        if as_json and leaving.code == ExitCode.BAD_INPUT:
            # typer has printed what is wrong with the command line on stderr, and nothing on stdout.
            show_json(_error_object("UsageError", "the command line is wrong; stderr says how", 2))
        raise


def _error_object(kind: str, what: str, exit_code: int, error: TilewrightError | None = None) -> dict[str, Any]:
    """What a command that failed prints on stdout for `--json`."""
    where = error.where if error is not None else None
    return {
        "schema": "tilewright.error",
        "schema_version": 1,
        "exit_code": exit_code,
        "error": kind,
        "what": what,
        "where": None if where is None else {"file": where.file, "line": where.line, "column": where.column},
        "hint": error.hint if error is not None else None,
    }


def _debugging() -> bool:
    """`--debug` stands before the command's name, where the callback takes it."""
    names = {info.name or (info.callback.__name__ if info.callback else "") for info in app.registered_commands}
    for argument in sys.argv[1:]:
        if argument in names:
            return False
        if argument == "--debug":
            return True
    return False


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else "no message"
