"""What the terminal shows: progress and messages on stderr, results on stdout, errors with their remedy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from trt_facefusion import types
from trt_facefusion.errors import TrtFaceFusionError

INTERRUPTED = 130
INTERNAL = 1

EXIT_CODES = """
Exit codes: 0 all right; 1 a bug in this tool; 2 bad input (options, faces, model, plan, calibration cache);
3 accuracy gate: a requested precision was not right (what it fell back to is stored); 4 engine maker not available;
5 the engine maker refused the network, or --strict found an INT8 kernel missing; 6 the store cannot be read or
written; 130 interrupted (nothing half-written is left).
"""

out = Console()
err = Console(stderr=True)

_STAGES = {
    "model": "reading the model",
    "calibrate": "calibrating",
    "rules": "comparing calibration rules",
    "compile": "building the engine",
    "sensitivity": "measuring layers",
    "store": "storing",
}


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[tuple[types.Progress, Callable[[str], None]]]:
    """A progress callback that draws one line per stage, and a function that prints a message above it."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            for task in tasks.values():
                bar.update(task, visible=False)
            tasks[stage] = bar.add_task(_STAGES.get(stage, stage), total=total or None)
        bar.update(tasks[stage], completed=done, total=total or None, visible=True)

    def note(message: str) -> None:
        if not quiet:
            err.print(f"[dim]·[/dim] {_escape(message)}", highlight=False)

    with bar:
        yield report, note


def print_json(value: Any) -> None:
    """Exactly one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_error(error: TrtFaceFusionError, as_json: bool) -> None:
    """The error with its remedy: on stderr, and as JSON on stdout where that was asked for."""
    if as_json:
        print_json({"error": error.as_dict()})
    err.print(f"[bold red]error:[/bold red] {_escape(error.message)}", highlight=False, soft_wrap=True)
    err.print(f"[bold]what to do:[/bold] {_escape(error.remedy)}", highlight=False, soft_wrap=True)


def size(count: int | None) -> str:
    """Bytes for a person."""
    if count is None:
        return "-"
    return f"{count / 1e6:.2f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
