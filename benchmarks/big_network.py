"""What building a large network costs: seconds (by the clock and of CPU) and memory of each stage of `trt-ff build`.

    python benchmarks/big_network.py --calib FACES                            (inswapper at full width, random weights)
    python benchmarks/big_network.py --onnx NET.onnx --input input=image:512:-1:1 --calib FACES

The build runs in a process of its own, so that its peak memory is its own. A machine that does other things as well
makes the clock run on, but hardly the CPU.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import onnx
import typer
from rich.console import Console
from rich.table import Table

from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.cli import model_choice
from trt_facefusion.types import Precision

SWAPPER_INPUTS = ["target=image:128:0:1", "source=embedding"]
_SAMPLING_S = 0.02
_RESULT = "big_network_result.json"

console = Console(stderr=True)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass
class Stage:
    """One stage as the progress callback names it: what it took, and the most memory (bytes) while it ran."""

    name: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    units: int = 0


class Clock:
    """Books time and memory on the stage that was named last; a stage ends when another one is named."""

    def __init__(self) -> None:
        self.stages = [Stage("start")]
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        self._book()
        if self.stages[-1].name != stage:
            self.stages.append(Stage(stage))
        self.stages[-1].units = done

    def note(self, message: str) -> None:
        self._book()
        console.print(f"{sum(stage.wall_s for stage in self.stages):7.1f} s  {message}", highlight=False, markup=False)

    def _book(self) -> None:
        wall, cpu = time.perf_counter(), cpu_seconds()
        self.stages[-1].wall_s += wall - self._wall
        self.stages[-1].cpu_s += cpu - self._cpu
        self._wall, self._cpu = wall, cpu

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLING_S):
            stage = self.stages[-1]
            stage.peak_bytes = max(stage.peak_bytes, resident_bytes())

    @contextmanager
    def running(self) -> Iterator[None]:
        self._sampler.start()
        try:
            yield
        finally:
            self._book()
            self._stopped.set()
            self._sampler.join()


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(settings: BuildSettings) -> dict[str, object]:
    """Build, and say what each stage took."""
    clock = Clock()
    with clock.running():
        result = build(settings, clock.progress, clock.note)
    return {
        "stages": [asdict(stage) for stage in clock.stages],
        "wall_s": sum(stage.wall_s for stage in clock.stages),
        "cpu_s": sum(stage.cpu_s for stage in clock.stages),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "engines": result.as_dict()["engines"],
    }


def show(found: dict[str, object]) -> None:
    table = Table(header_style="bold")
    for column in ("stage", "s", "CPU s", "peak GiB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in found["stages"]:
        if stage["wall_s"] >= 0.5:
            figures = (f"{stage['wall_s']:.1f}", f"{stage['cpu_s']:.1f}", f"{stage['peak_bytes'] / 2**30:.2f}")
            table.add_row(stage["name"], *figures)
    table.add_section()
    table.add_row("all", f"{found['wall_s']:.1f}", f"{found['cpu_s']:.1f}", f"{found['peak_bytes'] / 2**30:.2f}")
    console.print(table)
    for engine in found["engines"]:
        drop, share = engine["accuracy"]["ssim_drop"], engine["macs_share"]["int8"]
        console.print(f"{engine['requested']} -> {engine['precision']}: SSIM drop {drop:.3%}, {share:.1%} MACs in int8")


@app.command()
def main(
    calib: Annotated[Path, typer.Option(help="Faces to calibrate on.")],
    onnx_file: Annotated[Path | None, typer.Option("--onnx", help="The network (else inswapper's build).")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Inputs of a model without a preset.")] = None,
    embedder: Annotated[Path | None, typer.Option(help="ArcFace ONNX, where the network takes its vectors.")] = None,
    max_calib: int = 300,
    max_eval: int = 128,
    backend: str = "auto",
    target: str | None = None,
    extra: Annotated[list[str] | None, typer.Option("--set", help="A build setting: NAME=JSON.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the figures are written as JSON.")] = None,
    inside: Annotated[Path | None, typer.Option("--inside", hidden=True)] = None,
) -> None:
    """Build INT8 and FP16 in a process of its own, and show what that took."""
    if inside is None:
        with tempfile.TemporaryDirectory() as name:
            arguments = [sys.executable, __file__, *sys.argv[1:], "--inside", name]
            if subprocess.run(arguments, check=False).returncode:
                raise typer.Exit(1)
            found = json.loads((Path(name) / _RESULT).read_text())
        show(found)
        if output is not None:
            output.write_text(json.dumps(found, indent=1) + "\n")
        return
    if onnx_file is None:
        from stand_ins.inswapper import inswapper

        onnx_file = inside / "inswapper.onnx"
        if os.fork() == 0:  # what making the file takes is no part of the figures
            onnx.save(inswapper(embedding=128), onnx_file)
            os._exit(0)
        os.wait()
    source = model_choice.choose_source(onnx_file, None, None)
    settings = BuildSettings(
        source=source,
        preset=model_choice.choose_preset(source, None, inputs or SWAPPER_INPUTS),
        precisions=(Precision.INT8, Precision.FP16),
        calib=calib,
        embedder=embedder,
        max_calib=max_calib,
        max_eval=max_eval,
        backend=backend,
        target=target,
        output=inside / "engines",
        cache=inside / "cache",
        **{name: json.loads(value) for name, value in (text.split("=", 1) for text in extra or [])},
    )
    (inside / _RESULT).write_text(json.dumps(measure(settings)))


if __name__ == "__main__":
    app()
