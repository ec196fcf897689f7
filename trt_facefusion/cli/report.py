"""`trt-ff report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.build.run_record import RunRecord
from trt_facefusion.cli import console, options
from trt_facefusion.storage.files import write_atomic


def command(
    run: Annotated[
        Path, typer.Argument(help="A build's folder in reports/, or a model's folder there for its newest build.")
    ] = Path("reports"),
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="Where to write the page (else beside the record).")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write the HTML report of a build again: one page, nothing in it is loaded from outside.

    Every build that makes an engine leaves a record in reports/; the page holds pictures made from your photos.
    """
    from trt_facefusion.report.page import render_page
    from trt_facefusion.report.runs import PAGE, find_run

    folder = find_run(run)
    page = output if output is not None else folder / PAGE
    text = render_page(RunRecord.load(folder)).encode()
    write_atomic(page, text)
    if as_json:
        console.print_json({"schema": 1, "run": str(folder), "report": str(page), "size_bytes": len(text)})
    else:
        console.line(f"report: {page}")
