"""How right INT8 is: threshold rule x plan x corrections, and other tools' quantisers, on faces that tuned nothing.

    python benchmarks/quality.py --calib CALIB --eval EVAL                                   (the bundled generator)
    python benchmarks/quality.py --onnx NET.onnx --input input=image:256:-1:1 --calib CALIB --eval EVAL
    python benchmarks/quality.py --random-swapper --calib CALIB --eval EVAL --modelopt-python PYTHON

Every row is one typed model against FP32: mean and worst SSIM drop, PSNR, and the share of MACs in INT8. What is not
INT8 computes in FP32 here, so that a figure is the error of INT8 alone. Other tools quantise the very layers of the
searched plan, each with its own graph and scales. Rows are written to ``--output`` as soon as they are known.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import peers
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from trt_facefusion.build.inputs import BuildInputs, read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stages import Stages
from trt_facefusion.cli import model_choice
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.metrics import measure_psnr_db, measure_ssim
from trt_facefusion.quantization.calibration.thresholds import list_compared_rules
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Precision

SWAPPER_INPUTS = ["target=image:128:0:1", "source=embedding"]
PARTS = ["rules", "searched", "rounding", "peers"]
EVERY = "equalise,shift,scales,rounding,bias"
COLUMNS = ("ranges", "plan", "corrections", "SSIM drop", "worst face", "PSNR dB", "INT8 MACs")

console = Console(stderr=True)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Other:
    """Another tool, the interpreter that has it, and how many images it gets."""

    name: str
    python: str
    images: int


@dataclass
class Bench:
    """One generator, its faces, and the settings that all rows share."""

    inputs: BuildInputs
    folder: Path

    def stages(self, rule: str, planner: str, corrections: str) -> Stages:
        """Stages with other settings over the faces and the reference pictures that were read once."""
        job, cache = self.inputs.job, self.folder / f"cache-{corrections}"
        settings = replace(job.settings, rule=rule, planner=planner, corrections=corrections, cache=cache)
        return Stages(replace(self.inputs, job=replace(job, settings=settings)))

    @property
    def reference(self) -> NDArray[np.float32]:
        """The evaluation faces' pictures as what was handed in makes them."""
        assert self.inputs.proof.reference is not None
        return self.inputs.proof.reference.clip(0, 1)

    def figures(self, model: onnx.ModelProto) -> dict[str, float]:
        """Mean and worst SSIM drop and mean PSNR of ``model`` on the evaluation faces."""
        with OnnxRuntimeRunner(model, stand_in=True) as runner:
            pictures = self.inputs.network.make_judge_renderer(self.inputs.faces.verification)(runner).clip(0, 1)
        wanted = self.reference
        drop = 1 - measure_ssim(wanted, pictures)
        return {
            "ssim_drop": float(drop.mean()),
            "ssim_drop_worst": float(drop.max()),
            "psnr_db": float(measure_psnr_db(wanted, pictures).mean()),
        }

    def row(self, rule: str, planner: str, corrections: str) -> tuple[dict[str, Any], Plan]:
        stages = self.stages(rule, planner, corrections)
        plan = stages.make_plan(Precision.INT8)
        found = self.figures(stages.lower(plan, Precision.FP32).typed)
        return named(rule, "searched" if planner == "auto" else "rules", corrections, found, plan), plan

    def peer(self, other: Other, plan: Plan) -> dict[str, Any]:
        """The model that another tool makes of the FP32 model, with the layers of ``plan`` in INT8."""
        feeder = self.inputs.feed_calibration()
        parts = [dict(feeder([i])) for i in range(min(other.images, len(self.inputs.faces.calibration)))]
        inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        nodes = list(plan.names(Precision.INT8))
        made = peers.quantise(
            other.name, self.inputs.network.prepared.model, inputs, nodes, batch=2, python=other.python
        )
        return named(other.name, "searched", "-", self.figures(made.model), plan) | {"images": len(parts)}


def named(rule: str, plan: str, corrections: str, found: dict[str, float], made: Plan) -> dict[str, Any]:
    return {"ranges": rule, "plan": plan, "corrections": corrections, **found, "int8": made.macs_share()["int8"]}


def rows(bench: Bench, parts: list[str], rules: list[str], others: list[Other]) -> Iterator[dict[str, Any]]:
    for corrections in ("none", "auto"):
        if "rules" in parts:
            for rule in rules:
                yield bench.row(rule, "rules", corrections)[0]
        if "searched" in parts:
            yield bench.row("auto", "auto", corrections)[0]
    if "rounding" in parts:
        yield bench.row("auto", "auto", EVERY)[0]
    if "peers" in parts:
        plan = bench.row("auto", "auto", "auto")[1]
        for other in others:
            yield bench.peer(other, plan)


def cells(row: dict[str, Any]) -> list[str]:
    images = f" ({row['images']} images)" if "images" in row else ""
    return [
        row["ranges"] + images,
        row["plan"],
        row["corrections"],
        f"{row['ssim_drop']:.3%}",
        f"{row['ssim_drop_worst']:.3%}",
        f"{row['psnr_db']:.1f}",
        f"{row['int8']:.1%}",
    ]


def random_swapper(folder: Path) -> Path:
    """A wide network of inswapper's build with random weights, which nothing was ever tuned on."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from nets import swapper

    path = folder / "random_swapper.onnx"
    onnx.save(swapper(width=32, blocks=6, size=128, embedding=128), path)
    return path


@app.command()
def main(
    calib: Annotated[Path, typer.Option(help="Faces to calibrate on.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Faces to judge on; nothing is chosen by them.")],
    model: Annotated[Path | None, typer.Option("--onnx", help="A generator; none for the bundled one.")] = None,
    swapper: Annotated[bool, typer.Option("--random-swapper", help="A wide random network in its place.")] = False,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Inputs of a model without a preset.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Rules to compare; all of them by default.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}; all by default.")] = None,
    search_faces: Annotated[int, typer.Option(help="Faces that the search measures on; 0 for its own choice.")] = 0,
    max_calib: int = 200,
    max_eval: int = 100,
    peer: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(peers.PEERS)}; all by default.")] = None,
    peer_images: Annotated[int, typer.Option(help="Images for other tools, which keep every activation.")] = 48,
    modelopt_python: Annotated[str | None, typer.Option(help="An interpreter with nvidia-modelopt[onnx].")] = None,
    output: Annotated[Path | None, typer.Option(help="Rows as JSON lines.")] = None,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = model_choice.choose_source(random_swapper(folder) if swapper else model, None, None)
        preset = model_choice.choose_preset(source, None, SWAPPER_INPUTS if swapper else inputs or [])
        settings = BuildSettings(
            source=source,
            preset=preset,
            precisions=(Precision.INT8,),
            calib=calib,
            eval=evaluation,
            backend="tensorrt-rtx",
            target="sm86",
            max_calib=max_calib,
            max_eval=max_eval,
            search_faces=search_faces,
            objective="macs",  # the tables compare plans by their share of MACs
        )
        note = partial(console.print, style="dim", highlight=False)
        inputs_read = read_inputs(open_job(settings, note=lambda text: note(f"  {text}")))
        bench = Bench(inputs_read, folder)
        table = Table(*COLUMNS)
        pythons = {tool: sys.executable if tool.startswith("onnxruntime") else modelopt_python for tool in peers.PEERS}
        others = [Other(tool, python, peer_images) for tool in peer or peers.PEERS if (python := pythons[tool])]
        for row in rows(bench, part or PARTS, rule or [*list_compared_rules(), "auto"], others):
            table.add_row(*cells(row))
            console.print(" | ".join(cells(row)), highlight=False)
            if output is not None:
                with output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        faces = (
            f"{len(inputs_read.faces.calibration)} faces to calibrate, {len(inputs_read.faces.verification)} to judge"
        )
        Console(width=140).print(f"{source.name}, {faces}", table, highlight=False)


if __name__ == "__main__":
    app()
