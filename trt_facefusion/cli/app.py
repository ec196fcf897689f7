"""The commands of `trt-ff`. A command is imported when it is called: all of them together take two seconds."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from trt_facefusion import __version__
from trt_facefusion.cli import console

_MAKE = ("build", "calibrate", "compare", "diff", "estimate", "export", "plan", "profile", "serve", "swap")
"""Commands whose exit code says how it went; their help lists the codes."""
_LOOK = ("engines", "inspect", "presets", "report", "doctor")
_GROUPS = ("cache", "canary", "faces", "package")
COMMANDS = (*_MAKE, *_LOOK, *_GROUPS)
"""Each is a module of this package: with a function `command`, or the commands of a group, `app`."""


def make_app(words: Sequence[str] = ()) -> typer.Typer:
    """All commands; or only the one that ``words``, a command line, calls."""
    app = typer.Typer(
        name="trt-ff",
        help="Builds TensorRT engines for face-swap generators, and proves on faces that they are right.",
        epilog=console.EXIT_CODES,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    for name in [word for word in words[:1] if word in COMMANDS] or COMMANDS:
        module = import_module(f"trt_facefusion.cli.{name}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command(name, epilog=console.EXIT_CODES if name in _MAKE else None)(module.command)
    app.callback(invoke_without_command=True)(_root)
    return app


def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Options of every command."""
    if version:
        console.out.print(f"trt-facefusion {__version__}", highlight=False)
        raise typer.Exit
