"""`trt-ff doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from trt_facefusion.cli import console
from trt_facefusion.doctor.driver import Gpu
from trt_facefusion.doctor.examine import Examination, examine
from trt_facefusion.doctor.findings import ADVICE, PROBLEM, WARNING, Finding
from trt_facefusion.engine.backends.gpu_support import find_gpu_support
from trt_facefusion.errors import BackendUnavailableError

_MARKS = {
    PROBLEM: console.styled("problem", "bold red"),
    WARNING: console.styled("warning", "yellow"),
    ADVICE: console.styled("advice", "cyan"),
}


def command(
    output: Annotated[Path, typer.Option(help="Where engines are to be stored.")] = Path("engines"),
    cache: Annotated[Path, typer.Option(help="Where calibrations are to be stored.")] = Path("calib_cache"),
    quick: Annotated[bool, typer.Option("--quick", help="Do not try whether the backend takes a network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Say what this machine can build and run, what is wrong with it, and what to install.

    Exits with 0 where `trt-ff build` works by default, and else with 4.
    """
    examination = examine(output, cache, quick=quick)
    if as_json:
        console.print_json(examination.as_dict())
    else:
        _show(examination)
    if not examination.healthy:
        raise typer.Exit(BackendUnavailableError.exit_code)


def _show(examination: Examination) -> None:
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in _list_facts(examination):
        facts.add_row(name, console.plain(text))
    console.show(facts)
    console.out.print()
    for finding in examination.findings:
        _show_finding(finding)
    build = examination.build
    if build.backend:
        reason = build.reason.removesuffix(".")
        verdict = f"`trt-ff build` makes {build.target} engines with {build.backend} {build.version}: {reason}."
    else:
        verdict = f"`trt-ff build` does not work: {build.reason}"
    style = "bold green" if examination.healthy else "bold red"
    if build.backend and not examination.healthy:
        verdict += " See the problems above."
    console.out.print(verdict, style=style)


def _list_facts(examination: Examination) -> list[tuple[str, str]]:
    driver = examination.driver
    rows = [("system", f"{examination.system}, Python {examination.python}")]
    rows.append(("processor", examination.processor))
    cuda = "CUDA {}.{}".format(*driver.cuda) if driver.cuda else ""
    release = f"{driver.release or 'release unknown'}, {cuda}" if cuda else ""
    rows.append(("driver", "; ".join(part for part in (release, driver.problem) if part)))
    for gpu in driver.gpus:
        rows.append((f"GPU {gpu.index}", _describe_gpu(gpu)))
        rows.append(("", _describe_precisions(gpu)))
    have = [f"{name} {version}" for name, version in examination.packages.items() if version]
    lack = [name for name, version in examination.packages.items() if not version]
    rows += [("installed", ", ".join(have)), ("not installed", ", ".join(lack) or "-")]
    rows.append(("tools", ", ".join(f"{name}: {path or 'none'}" for name, path in examination.tools.items())))
    memory = "unknown" if examination.memory_bytes is None else f"{examination.memory_bytes / 2**30:.1f} GiB available"
    rows.append(("memory", memory))
    disk = [f"{folder}: {_format_gib(free)}" for folder, free in examination.disk_bytes.items()]
    rows.append(("disk", ", ".join(disk)))
    return rows


def _format_gib(free: int | None) -> str:
    return "cannot be written to" if free is None else f"{free / 2**30:.1f} GiB free"


def _describe_gpu(gpu: Gpu) -> str:
    support = find_gpu_support(gpu.compute_capability)
    kind = f", {support.architecture}" if support else ""
    free = "?" if gpu.free_bytes is None else f"{gpu.free_bytes / 2**30:.1f}"
    cc = "{}.{}".format(*gpu.compute_capability)
    return f"{gpu.name}, compute capability {cc} ({gpu.target}{kind}), {free} of {gpu.total_bytes / 2**30:.1f} GiB free"


def _describe_precisions(gpu: Gpu) -> str:
    support = find_gpu_support(gpu.compute_capability)
    if support is None:
        return "its tensor cores are not known to this version"
    return f"{support.reason}; INT8 -> FP16 -> FP32 ends at {support.best.value}"


def _show_finding(finding: Finding) -> None:
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True, width=len("problem") + 1)
    row.add_column(overflow="fold")
    row.add_row(_MARKS[finding.level], console.plain(finding.text))
    for command in finding.commands:
        advice = command[2:] if command.startswith("#") else console.joined(console.styled("$", "dim"), f" {command}")
        row.add_row("", advice)
    console.out.print(row)
    console.out.print()
