"""`trt-ff`: the commands, and what happens to errors."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from trt_facefusion import __version__
from trt_facefusion.cli import build, console, engines, presets
from trt_facefusion.errors import BadInputError, TrtFaceFusionError

app = typer.Typer(
    name="trt-ff",
    help="Builds TensorRT engines for face-swap generators, and proves on faces that they are right.",
    epilog=console.EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("build", epilog=console.EXIT_CODES)(build.command)
app.command("engines")(engines.list_command)
app.command("inspect")(engines.inspect_command)
app.command("presets")(presets.command)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Options of every command."""
    if version:
        console.out.print(f"trt-facefusion {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Entry point: runs a command and turns every error into a message, a remedy and an exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    as_json = "--json" in arguments
    try:
        code = app(arguments, standalone_mode=False)
    except TrtFaceFusionError as error:
        console.print_error(error, as_json)
        return error.exit_code
    except typer.Exit as stop:
        return int(stop.exit_code)
    except TyperException as error:  # an option that does not exist, a value that does not parse
        console.print_error(BadInputError(error.format_message(), f"see {_help_of(arguments)}"), as_json)
        return BadInputError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        message = "interrupted: nothing half-written is left, engines that were stored before are as they were"
        console.print_error(_InterruptedError(message, "run the same command again"), as_json)
        return console.INTERRUPTED
    except BrokenPipeError:
        return console.INTERNAL
    return code if isinstance(code, int) else 0


def _help_of(arguments: list[str]) -> str:
    command = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    return f"trt-ff {command} --help".replace("  ", " ")


class _InterruptedError(TrtFaceFusionError):
    kind = "interrupted"
    exit_code = console.INTERRUPTED


if __name__ == "__main__":
    main()
