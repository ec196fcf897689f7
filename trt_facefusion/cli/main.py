"""The entry point of `trt-ff`, and what happens to errors.

The commands are imported inside of `run`: it takes a second, and Ctrl-C may come while it does.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from contextlib import nullcontext, suppress

from trt_facefusion.errors import BadInputError, StoreError, TrtFaceFusionError
from trt_facefusion.storage.leftovers import listen

INTERNAL = 1
INTERRUPTED = 130
HUNG_UP = 129
"""128 + SIGHUP: the terminal that the command was started from has gone."""
READER_GONE = 141
"""What a shell reports of a program that SIGPIPE ended: whoever read the output has gone."""


def main() -> None:
    """Run the command line that the process was started with, and exit with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # containers and CI stop a build with it
    hung_up = _end_when_hung_up()
    arguments = sys.argv[1:]
    try:
        _prepare_streams()
        code = run(arguments)
    except KeyboardInterrupt:  # while what would tell of it is still loading
        code = INTERRUPTED
    code = HUNG_UP if hung_up else code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or READER_GONE
    except OSError as error:
        code = code or _fail(_explain_output(error), arguments)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again when it ends, and complain
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
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
    from trt_facefusion.cli import console

    with console.json_only() if "--json" in arguments else nullcontext():
        return _run_guarded(arguments)


def _run_guarded(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except BrokenPipeError:
        return READER_GONE
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):  # rich, printing help
            return READER_GONE
        return _fail(_explain(error), arguments)


def _explain(error: BaseException) -> TrtFaceFusionError:
    """Any error as one with a cause and a remedy."""
    if isinstance(error, TrtFaceFusionError):
        return error
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted: nothing half-written is left, engines that were stored before are as they were"
        return _InterruptedError(message, "run the same command again")
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, OSError):
        return _explain_system(error)
    if isinstance(error, SystemExit):  # from code that is not ours: the factory of --model
        return BadInputError(
            f"code that was loaded ended the program, by sys.exit({error.code!r:.40})", "take that out of it"
        )
    with suppress(OSError):
        traceback.print_exception(error)
    return _InternalError(f"{type(error).__name__}: {error}", "this is a bug of trt-ff: report it")


def _run(arguments: list[str]) -> int:
    import typer
    from typer.exceptions import TyperException

    from trt_facefusion.cli import console
    from trt_facefusion.cli.app import make_app

    listen(console.warn)
    _require_values(arguments)
    try:
        code = make_app(arguments)(arguments, standalone_mode=False)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except TyperException as error:  # an option that does not exist, a value that does not parse
        if not error.format_message():  # no command at all: the help was shown
            return BadInputError.exit_code
        raise BadInputError(error.format_message(), f"see {_find_help(arguments)}") from error
    except console.OutputError as error:
        if isinstance(error.cause, BrokenPipeError):
            raise error.cause from error
        raise _explain_output(error.cause) from error
    if code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _prepare_streams() -> None:
    """Nothing ends in a traceback because a terminal or a pipe cannot hold a letter, or because there is none."""
    from trt_facefusion.cli import console

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  # a name, open for the process's life
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=console.SUBSTITUTES)


def _require_values(arguments: list[str]) -> None:
    """Raise `BadInputError` for a value that is empty: as a path it would silently be the current folder."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, text = argument.partition("=")
        if not argument.strip() or (option.startswith("--") and equals and not text.strip()):
            name = option if equals else before if before.startswith("-") else "an argument"
            raise BadInputError(f"{name} is empty", f"give it a value; see {_find_help(arguments)}")


def _fail(error: TrtFaceFusionError, arguments: list[str]) -> int:
    from trt_facefusion.cli import console

    with suppress(OSError, console.OutputError):  # the terminal may have gone, too
        console.print_error(error, "--json" in arguments)
    return error.exit_code


def _explain_output(error: OSError) -> StoreError:
    return StoreError(
        f"the output cannot be written: {error.strerror or error}", "write it to a place with room, or read it all"
    )


def _explain_system(error: OSError) -> StoreError:
    """An error of the operating system that nobody foresaw: its cause as it gives it, and the file if it is known."""
    temporary = error.errno in _FULL or (error.errno == errno.ENOENT and "temporary directory" in str(error))
    where = f": {error.filename}" if error.filename else ""
    remedy = "check that file or folder, its rights and its disk"
    if temporary:
        remedy = "free some space, also in the temporary folder, or name another one with TMPDIR"
    if error.errno == errno.ENOMEM:
        remedy = "close other programs, or take a machine with more memory"
    return StoreError(f"the operating system refused: {error.strerror or error}{where}", remedy)


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _find_help(arguments: list[str]) -> str:
    from trt_facefusion.cli.app import COMMANDS

    command = next((f"{name} " for name in arguments[:1] if name in COMMANDS), "")
    return f"trt-ff {command}--help"


class _InterruptedError(TrtFaceFusionError):
    kind = "interrupted"
    exit_code = INTERRUPTED


class _InternalError(TrtFaceFusionError):
    kind = "internal"
    exit_code = INTERNAL


if __name__ == "__main__":
    main()
