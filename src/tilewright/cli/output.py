"""Where the command prints: answers on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tilewright.search.progress import Step

#: Width of tables where stdout is no terminal, characters.
_PLAIN_WIDTH = 120


def show(view: RenderableType) -> None:
    """Print tables and text on stdout."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else max(_PLAIN_WIDTH, shutil.get_terminal_size((0, 0)).columns)
    Console(width=width, highlight=False).print(view)


def show_json(report: dict[str, Any]) -> None:
    """Print one JSON object on stdout, and nothing else there."""
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.stdout.flush()


def complain(message: str) -> None:
    """Print an error on stderr, as it is."""
    print(f"tilewright: {message}", file=sys.stderr)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[Step], None]]:
    """A bar on stderr with what is being tried; plain lines where stderr is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(
            f"[{step.fraction:4.0%}{_left(step)}] {step}", markup=False, highlight=False, soft_wrap=True
        )
        return
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.percentage:>3.0f}%{task.fields[left]}"))
    others = (TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, *others, console=console, transient=True) as progress:
        bar = progress.add_task(escape(title), total=1.0, left="")
        yield lambda step: progress.update(
            bar, completed=step.fraction, description=escape(str(step)), left=_left(step)
        )


def _left(step: Step) -> str:
    """What is left of the run's budget, where it has one."""
    return "" if step.left_s is None else f", {step.left_s:.0f} s left"
