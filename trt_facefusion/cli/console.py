"""What the terminal shows: progress and messages on stderr, results on stdout, errors with their remedy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from trt_facefusion import types
from trt_facefusion.errors import TrtFaceFusionError

EXIT_CODES = """
Exit codes:
  0  all right
  1  a bug in this tool
  2  bad input: options, faces, model, plan, calibration cache
  3  accuracy gate: a requested precision was not right; see its fall-back
  4  the engine maker is not available
  5  the engine maker refused the network, or --strict missed an INT8 kernel
  6  the store cannot be read or written
  7  the GPU, its driver or TensorRT failed
130  interrupted; nothing half-written is left
"""

out = Console()
err = Console(stderr=True)

_STAGES = {
    "model": "reading the model",
    "channels": "comparing channels",
    "calibrate": "calibrating",
    "rules": "comparing calibration rules",
    "cost": "timing one inference",
    "thresholds": "trying thresholds of single tensors",
    "compile": "building the engine",
    "search": "searching the plan",
    "store": "storing",
    "latency": "measuring latency",
    "layers": "timing layers",
    "in flight": "several in flight",
    "batches": "batch sizes",
    "trtexec": "running trtexec",
}


@contextmanager
def progress_bar() -> Iterator[tuple[types.Progress, Callable[[str], None]]]:
    """A progress callback that draws one line per stage, and a function that prints a message above it."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    shown: dict[str, TaskID] = {}  # the stage that is under way

    def report(stage: str, done: int, total: int) -> None:
        if stage not in shown:
            for task in shown.values():
                bar.remove_task(task)
            shown.clear()
            shown[stage] = bar.add_task(_STAGES.get(stage, stage), total=total or None, count="")
            if not err.is_terminal:  # a log gets a line where a person sees a bar
                _say("[dim]·[/dim]", _STAGES.get(stage, stage))
        bar.update(shown[stage], completed=done, total=total or None, count=f"{done}/{total}" if total else "")

    def note(message: str) -> None:
        warning = message.startswith("warning: ")
        _say("[yellow]![/yellow]" if warning else "[dim]·[/dim]", message)

    with bar:
        yield report, note


def print_json(value: Any) -> None:
    """Exactly one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_error(error: TrtFaceFusionError, as_json: bool) -> None:
    """The error with its remedy: on stderr, and as JSON on stdout where that was asked for."""
    if as_json:
        print_json({"error": error.as_dict()})
    _say("[bold red]error:[/bold red]", error.message)
    _say("[bold]what to do:[/bold]", error.remedy)


def size(count: int | None) -> str:
    """Bytes for a person."""
    if count is None:
        return "-"
    if count < 1e6:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.2f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"


def plain(text: str) -> str:
    """``text`` as rich prints it letter by letter; control characters, as file names may hold, are written out."""
    readable = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return escape(readable)


def _say(mark: str, text: str) -> None:
    if not err.is_terminal:  # a log is searched by lines
        err.print(f"{mark} {plain(text)}", highlight=False, soft_wrap=True)
        return
    hanging = Table.grid(padding=(0, 1))
    hanging.add_column(no_wrap=True)
    hanging.add_column(overflow="fold")
    hanging.add_row(mark, plain(text))
    err.print(hanging, highlight=False)
