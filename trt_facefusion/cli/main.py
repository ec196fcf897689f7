"""The entry point of `trt-ff`, and what happens to errors.

The commands are imported inside of `run`: it takes a second, and Ctrl-C may come while it does.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress

from trt_facefusion.errors import BadInputError, TrtFaceFusionError
from trt_facefusion.leftovers import listen

INTERNAL = 1
INTERRUPTED = 130
HUNG_UP = 129
"""128 + SIGHUP: the terminal that the command was started from has gone."""


def main() -> None:
    """Run the command line that the process was started with, and exit with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # containers and CI stop a build with it
    hung_up = _end_when_hung_up()
    code = run(sys.argv[1:])
    code = HUNG_UP if hung_up else code
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone; Python would complain about it when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or INTERNAL
    sys.exit(code)


def _end_when_hung_up() -> list[int]:
    """Let SIGHUP end a command as Ctrl-C does, unless it is ignored (nohup); the list is no longer empty if it came."""
    came: list[int] = []
    terminals = [stream for stream in (1, 2) if _is_terminal(stream)]

    def hang_up(number: int, frame: object) -> None:
        came.append(number)
        with suppress(OSError):  # what is said from now on has nowhere to go: a terminal that has gone gives EIO
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in terminals:
                os.dup2(nowhere, stream)
        raise KeyboardInterrupt

    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    return came


def _is_terminal(stream: int) -> bool:
    try:
        return os.isatty(stream)
    except OSError:
        return False


def run(arguments: list[str]) -> int:
    """Run one command line and turn every error into a message, a remedy and an exit code, which it gives."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        message = "interrupted: nothing half-written is left, engines that were stored before are as they were"
        return _fail(_InterruptedError(message, "run the same command again"), arguments)
    except TrtFaceFusionError as error:
        return _fail(error, arguments)
    except BrokenPipeError:
        return INTERNAL
    except Exception as error:
        traceback.print_exc()
        return _fail(
            _InternalError(f"{type(error).__name__}: {error}", "this is a bug of trt-ff: report it"), arguments
        )


def _run(arguments: list[str]) -> int:
    import typer
    from typer.exceptions import TyperException

    from trt_facefusion.cli import console
    from trt_facefusion.cli.app import app

    listen(console.warn)
    _require_words(arguments)
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except TyperException as error:  # an option that does not exist, a value that does not parse
        if not error.format_message():  # no command at all: the help was shown
            return BadInputError.exit_code
        raise BadInputError(error.format_message(), f"see {_help_of(arguments)}") from error
    if code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _require_words(arguments: list[str]) -> None:
    """Refuse an empty value: as a folder it would mean the current one, and it comes from an unset variable."""
    for number, word in enumerate(arguments):
        if word == "" or (word.startswith("--") and word.endswith("=")):
            before = arguments[number - 1] if number and word == "" else word.rstrip("=")
            name = before if before.startswith("-") else "an argument"
            raise BadInputError(f"{name} is empty", "give it a value, or leave it out (is a variable not set?)")


def _fail(error: TrtFaceFusionError, arguments: list[str]) -> int:
    from trt_facefusion.cli import console

    console.print_error(error, "--json" in arguments)
    return error.exit_code


def _help_of(arguments: list[str]) -> str:
    from trt_facefusion.cli.app import app

    known = [command.name for command in app.registered_commands]
    command = next((f"{name} " for name in arguments[:1] if name in known), "")
    return f"trt-ff {command}--help"


class _InterruptedError(TrtFaceFusionError):
    kind = "interrupted"
    exit_code = INTERRUPTED


class _InternalError(TrtFaceFusionError):
    kind = "internal"
    exit_code = INTERNAL


if __name__ == "__main__":
    main()
