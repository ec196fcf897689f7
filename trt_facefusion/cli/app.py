"""The commands of `trt-ff`."""

from __future__ import annotations

from typing import Annotated

import typer

from trt_facefusion import __version__
from trt_facefusion.cli import (
    build,
    cache,
    calibrate,
    canary,
    compare,
    console,
    diff,
    doctor,
    engines,
    estimate,
    export,
    faces,
    inspect,
    package,
    plan,
    presets,
    profile,
    report,
    serve,
    swap,
)

app = typer.Typer(
    name="trt-ff",
    help="Builds TensorRT engines for face-swap generators, and proves on faces that they are right.",
    epilog=console.EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("build", epilog=console.EXIT_CODES)(build.command)
app.command("calibrate", epilog=console.EXIT_CODES)(calibrate.command)
app.command("compare", epilog=console.EXIT_CODES)(compare.command)
app.command("diff", epilog=console.EXIT_CODES)(diff.command)
app.command("engines")(engines.command)
app.command("estimate", epilog=console.EXIT_CODES)(estimate.command)
app.command("export", epilog=console.EXIT_CODES)(export.command)
app.command("inspect")(inspect.command)
app.command("plan", epilog=console.EXIT_CODES)(plan.command)
app.command("presets")(presets.command)
app.command("profile", epilog=console.EXIT_CODES)(profile.command)
app.command("report")(report.command)
app.command("serve", epilog=console.EXIT_CODES)(serve.command)
app.command("swap", epilog=console.EXIT_CODES)(swap.command)
app.command("doctor")(doctor.command)
app.add_typer(cache.app, name="cache")
app.add_typer(canary.app, name="canary")
app.add_typer(faces.app, name="faces")
app.add_typer(package.app, name="package")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Options of every command."""
    if version:
        console.out.print(f"trt-facefusion {__version__}", highlight=False)
        raise typer.Exit
