"""What the terminal shows: progress and messages on stderr, results on stdout, errors with their remedy.

Every text is shown letter for letter, whatever a file or a tensor is called: `Screen` knows no markup and no emoji
codes, and writes out what would act upon the terminal. Styles are put on with `styled`.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from trt_facefusion import types
from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.text import printable

EXIT_CODES = """
Exit codes:
  0  all right
  1  a bug in this tool
  2  bad input: options, faces, model, plan, calibration cache
  3  accuracy gate: a requested precision was not right; see its fall-back
  4  the backend is not available
  5  the backend refused the network, or --strict missed an INT8 kernel
  6  the store, another file or the output cannot be read or written
  7  the GPU, its driver or TensorRT failed
130  interrupted; nothing half-written is left
141  whoever read the output has gone
"""

SUBSTITUTES = "trt_facefusion.substitutes"
"""How a stream is told to write what its encoding lacks: signs of ours by simpler ones, letters by their number."""
_SIMPLER = {"█": "#", "◄": "<", "·": "-", "…": "...", "│": "|", "─": "-", "└": "+", "µ": "u"}
_SIMPLER |= dict(zip("▁▂▃▄▅▆▇", "..::==#", strict=True)) | dict.fromkeys("▏▎▍▌▋▊▉", "|")


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_SIMPLER.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters), error.end


codecs.register_error(SUBSTITUTES, _substitute)


class OutputError(Exception):
    """stdout or stderr does not take what is written; ``cause`` says why."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Screen(Console):
    """A terminal, or what stands in for one, that shows every text letter for letter."""

    def __init__(
        self, *, stderr: bool = False, width: int | None = None, file: IO[str] | None = None, **options: Any
    ) -> None:
        super().__init__(stderr=stderr, width=width, file=file, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """``text`` with everything written out that a terminal would act upon; rich calls this for every text."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints. Raises `OutputError` where the reader has gone or nothing more fits."""
        with _writing():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Let the caller know; rich would end the program."""
        raise BrokenPipeError


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # typer would take it, and exit with a code of its own
        raise OutputError(error) from error


@contextmanager
def json_only() -> Iterator[None]:
    """Keep stdout for the one JSON object: what anything else prints there, a library in C too, goes to stderr."""
    global _json_out  # noqa: PLW0603  # as there is one stdout
    real, copy = sys.stdout, None
    try:
        descriptor = real.fileno()
    except (OSError, ValueError, AttributeError):  # what stands in for it in tests has none
        descriptor = None
    if descriptor == _STDOUT:
        real.flush()
        copy = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
    _json_out = real if copy is None else open(copy, "w", encoding="ascii", closefd=False)  # noqa: SIM115
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _json_out = None
        if copy is not None:
            os.dup2(copy, _STDOUT)
            os.close(copy)


_STDOUT, _STDERR = 1, 2
_json_out: IO[str] | None = None

out = Screen()
err = Screen(stderr=True)

_WIDE, _PAIR = 70, 2
_READABLE = 16
"""Columns that a long name needs so that it can be read, being broken into lines."""
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


class _RateColumn(ProgressColumn):
    """How many are done in a second."""

    def render(self, task: Task) -> Text:
        """Nothing until something is done."""
        return Text("" if task.speed is None else f"{task.speed:.1f} a second, left")


Say = Callable[[str], None]
"""Prints a message."""


@contextmanager
def progress_bar(rate: bool = False) -> Iterator[tuple[types.Progress, Say]]:
    """A progress callback that draws one line per stage, and a function that prints a message above it.

    ``rate`` also shows how many are done in a second, and the time left.
    """
    bar = Progress(
        SpinnerColumn("dots" if err.encoding.startswith("utf") else "line"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        *([_RateColumn(), TimeRemainingColumn()] if rate else []),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    shown: dict[str, TaskID] = {}  # the stage that is under way

    def report(stage: str, done: int, total: int) -> None:
        name = printable(_STAGES.get(stage, stage))
        if stage not in shown:
            for task in shown.values():
                bar.remove_task(task)
            shown.clear()
            shown[stage] = bar.add_task(name, total=total or None, count="")
            if not err.is_terminal:  # a log gets a line where a person sees a bar
                _say(styled("·", "dim"), name)
        bar.update(shown[stage], completed=done, total=total or None, count=f"{done}/{total}" if total else "")

    def note(message: str) -> None:
        warning = message.startswith("warning: ")
        _say(styled("!", "yellow") if warning else styled("·", "dim"), message)

    with bar:
        yield report, note


def print_json(document: Any) -> None:
    """Exactly one JSON object on stdout."""
    stream = _json_out or sys.stdout
    with _writing():
        stream.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        stream.flush()


def print_error(error: TrtFaceFusionError, as_json: bool) -> None:
    """The error with its remedy: on stderr, and as JSON on stdout where that was asked for."""
    try:
        if as_json:
            print_json({"error": error.as_dict()})
    finally:  # a stdout that takes nothing is told on stderr
        _say(styled("error:", "bold red"), error.message)
        _say(styled("what to do:", "bold"), error.remedy)


def warn(message: str) -> None:
    """A warning on stderr."""
    _say(styled("!", "yellow"), f"warning: {message}")


def note(message: str) -> None:
    """Something that people should know, on stderr."""
    _say(styled("-", "dim"), message)


def size(count: int | None) -> str:
    """Bytes for a person."""
    if count is None:
        return "-"
    if count < 1e6:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.2f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"


def plain(text: str) -> str:
    """``text`` as a `Screen` shows it."""
    return printable(text)


def styled(text: str, style: StyleType) -> Text:
    """``text``, letter for letter, in a colour or weight."""
    return Text(printable(text), style)


def joined(*parts: str | Text) -> Text:
    """The parts one after another on one line, each with its own style."""
    return Text.assemble(*(part if isinstance(part, Text) else printable(part) for part in parts))


def lines(*parts: str) -> Text:
    """The parts below one another."""
    return Text("\n".join(printable(part) for part in parts))


def line(*parts: str | Text) -> None:
    """A line of the result; long ones are left to the terminal to wrap, so that paths can be copied."""
    out.print(joined(*parts), soft_wrap=True)


def show(table: Table) -> None:
    """A table; where the terminal is too narrow for it, each row becomes a list, so that nothing is cut off."""
    if out.width >= _WIDE:
        out.print(table)
        return
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", False
    if len(table.columns) <= _PAIR or _measure_width(table) <= out.width:
        out.print(table)
        return
    if table.title:
        out.print(table.title)
    titles = [column.header for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        block = Table.grid(padding=(0, 1))
        block.add_column(style="dim", overflow="fold")
        block.add_column(overflow="fold")
        for title, cell in zip(titles, row, strict=True):
            if str(cell).strip():
                block.add_row(title, cell)
        out.print(block)
        out.print()


def _measure_width(table: Table) -> int:
    """The width at which names can still be read and no number is broken."""
    total = 0
    for column in table.columns:
        cells = [str(cell) for cell in column.cells]
        figures = column.justify == "right"
        words = " ".join([str(column.header), *(cells if figures else [])]).split()
        names = [] if figures else [min(len(text), _READABLE) for text in cells]
        total += max([*map(len, words), *names], default=0) + 3
    return total


def _say(mark: Text, text: str) -> None:
    if not err.is_terminal:  # a log is searched by lines
        err.print(joined(mark, " ", text), soft_wrap=True)
        return
    hanging = Table.grid(padding=(0, 1))
    hanging.add_column(no_wrap=True)
    hanging.add_column(overflow="fold")
    hanging.add_row(mark, plain(text))
    err.print(hanging)
