"""Running code of the user's inside of a build: the build says what went wrong, and stdout stays ours.

It may print (stdout belongs to the results, so it goes to stderr), end the program, change the folder or torch's
defaults, and raise anything. What it does to the machine is its own affair: it is the user's code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from trt_facefusion.errors import BadInputError, TrtFaceFusionError
from trt_facefusion.model.generators.local_code import is_installed

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_LONGEST = 300


@contextmanager
def run_user_code(what: str, remedy: str, kind: type[TrtFaceFusionError] = BadInputError) -> Iterator[None]:
    """Run the block, which calls code of the user's, and turn all that it raises into one line.

    The current folder is on ``sys.path`` meanwhile. Ctrl-C goes through.

    Args:
        what: what is called, as the subject of the message.
        remedy: what to do about it.
        kind: the class of the error.

    Raises:
        TrtFaceFusionError: of class ``kind``: the block raised, or tried to end the program.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        with _redirect_stdout(), _watch_signals() as came, _refuse_exit(), _restore_state(folder):
            try:
                yield
            except TrtFaceFusionError:
                raise
            except KeyboardInterrupt as error:
                if came:
                    raise
                raise kind(f"{what} raised KeyboardInterrupt{_locate_failure(error)}", remedy) from error
            except BaseException as error:
                raise kind(f"{what}: {describe_cause(error)}{_locate_failure(error)}", remedy) from error
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def describe_cause(error: BaseException) -> str:
    """One line that says what an exception of anybody's says, also where its own text fails or has no end."""
    if isinstance(error, SystemExit):
        return f"it tried to end the program (exit code {error.code!r:.40})"
    lines = split_lines(error)
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def split_lines(error: BaseException) -> list[str]:
    """The lines of an exception's text that are not empty; none where the text itself fails."""
    try:
        return [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception:
        return []


def _locate_failure(error: BaseException) -> str:
    """Where in the user's own code it happened."""
    here, found, trace = Path(__file__).parents[2], "", error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.suffix == ".py" and not is_installed(path) and not path.is_relative_to(here):
            found = f" ({path.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


@contextmanager
def _redirect_stdout() -> Iterator[None]:
    """Let what is written to stdout go to stderr, also by libraries written in C.

    The block gets streams of its own, which it may close or replace.
    """
    _flush()
    kept = _duplicate(1)
    with _open_stream(2) as said, _open_stream(2) as complained:
        try:
            if kept is not None:
                with suppress(OSError):
                    os.dup2(2, 1)
            with redirect_stdout(said), redirect_stderr(complained):
                yield
        finally:
            _flush()
            if kept is not None:
                os.dup2(kept, 1)
                os.close(kept)


def _duplicate(handle: int) -> int | None:
    try:
        return os.dup(handle)
    except OSError:  # there is no such stream
        return None


@contextmanager
def _open_stream(handle: int) -> Iterator[TextIO]:
    """A text stream to where ``handle`` leads."""
    target = _duplicate(handle)
    where = os.open(os.devnull, os.O_WRONLY) if target is None else target
    stream = os.fdopen(where, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    try:
        yield stream
    finally:
        with suppress(Exception):
            stream.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(Exception):
        ctypes.CDLL(None).fflush(None)


@contextmanager
def _watch_signals() -> Iterator[list[int]]:
    """The signals that came while the block ran: they tell Ctrl-C from an exception that only looks like it."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        came.append(0)  # no handler can be set here: believe it
        yield came
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def watched(number: int, frame: Any) -> None:
        came.append(number)
        handler = before[number]
        if callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, watched)
    try:
        yield came
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def _refuse_exit() -> Iterator[None]:
    """``os._exit`` in this process raises SystemExit: nothing was built, and the exit code must say so."""
    real, process = os._exit, os.getpid()

    def refuse(code: int) -> None:
        if os.getpid() != process:
            real(code)
        raise SystemExit(code)

    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = real


@contextmanager
def _restore_state(folder: str) -> Iterator[None]:
    """Put back what code of a user's may change for the whole process: the folder, and torch's defaults."""
    import torch

    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(gradients)
