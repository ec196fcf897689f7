"""Our calibration against other tools' on the same images: CPU seconds, peak memory, and how right the INT8 model is.

Every tool gives ranges for the same convolutions; these are lowered by our lowering, so that only the ranges differ.
The model that the tool itself makes is judged, too. Judged on faces that nobody calibrated on.

    python benchmarks/calibration_peers.py MODEL.onnx --faces CALIB --eval EVAL --images 200 --modelopt-python PYTHON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import calibration
import numpy as np
import onnx
import peers
import typer
from rich.console import Console
from rich.table import Table

from trt_facefusion.build.tuning.histograms import find_watched_tensors
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.metrics import measure_psnr_db, measure_ssim
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.model.presets import Preset, get_preset, parse_input
from trt_facefusion.quantization.calibration import parse_rule
from trt_facefusion.quantization.correction.channel_affine import Affine, Affines, name_equalised
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision

RULES = ("entropy", "mse", "percentile:99.99", "max")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Judge:
    """Holds INT8 models against the FP32 model on the evaluation faces."""

    def __init__(self, view: GraphView, preset: Preset, faces: Path, count: int) -> None:
        self.preset = preset
        self.batches = list(calibration.batches_of(faces, preset, count, 4))
        self.output = next(v.name for v in view.model.graph.output)
        self.wanted = self.pictures(view.model)

    def pictures(self, model: onnx.ModelProto) -> np.ndarray:
        with OnnxRuntimeRunner(model, stand_in=True) as runner:
            found = [self.preset.output.decode(runner.infer(feeds)[self.output]) for feeds in self.batches]
        return np.concatenate(found).clip(0, 1)

    def __call__(self, model: onnx.ModelProto) -> list[str]:
        pictures = self.pictures(model)
        similar = measure_ssim(self.wanted, pictures)
        return [f"{similar.mean():.4f}", f"{similar.min():.4f}", f"{measure_psnr_db(self.wanted, pictures).mean():.1f}"]


def trimmed(faces: Path, images: int, path: Path) -> Path:
    """The first ``images`` faces alone: other tools are not given more than they calibrate on, either."""
    data = np.load(faces)
    if not {"crops", "embeddings"} <= set(data):
        return faces
    np.savez(path, crops=data["crops"][:images], embeddings=data["embeddings"][:images])
    return path


def convolutions(view: GraphView) -> list[str]:
    """The convolutions that the plan by rules runs in INT8."""
    return [name for name in plan_by_rules(view, {}, "").names(Precision.INT8) if view.nodes[name].op_type == "Conv"]


def plan_of(view: GraphView, nodes: list[str]) -> Plan:
    """The plan with ``nodes`` in INT8 and no others."""
    plan = plan_by_rules(view, {}, "")
    return plan.raised({name: "not compared" for name in plan.names(Precision.INT8) if name not in set(nodes)})


def ours(model: Path, faces: Path, preset: Preset, images: int) -> None:
    """Run in a process of its own: our calibration step; prints figures, ranges by rule, and affines."""
    loaded = onnx.load(model)
    batches = calibration.batches_of(faces, preset, images, 1)
    cpu = calibration.cpu_seconds()
    histograms, affines = calibration.whole_step(loaded, batches)
    ranges = {rule: {name: parse_rule(rule)(h) for name, h in histograms.items()} for rule in RULES}
    figures = {"cpu_s": calibration.cpu_seconds() - cpu, "peak_gib": calibration.peak_gib()}
    kept = {name: (affine.exponents.tolist(), affine.offsets.tolist()) for name, affine in affines.items()}
    sys.stdout.write(json.dumps({**figures, "ranges": ranges, "affines": kept}))


def ranges_for(view: GraphView, nodes: list[str], known: Mapping[str, float], affines: Affines) -> dict[str, float]:
    """Ranges of what ``nodes`` read: copies without a range of their own take over that of their originals."""
    aliases = find_watched_tensors(view)[1]
    names = {view.nodes[node].input[0] for node in nodes}
    plain = {name: known[name if name in known else aliases[name]] for name in names}
    return plain | {name_equalised(name): known[name_equalised(name)] for name in names if name in affines}


@app.command()
def main(
    model: Path,
    faces: Annotated[Path, typer.Option(help="Calibration faces: a folder of photos, or an .npz.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Faces to judge on.")],
    images: Annotated[int, typer.Option(help="Images to calibrate on.")] = 200,
    judged: Annotated[int, typer.Option(help="Faces to judge on.")] = 100,
    peer: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(peers.PEERS)}.")] = None,
    modelopt_python: Annotated[Path | None, typer.Option(help="An interpreter with nvidia-modelopt[onnx].")] = None,
    every_tensor: Annotated[
        bool, typer.Option(help="Let onnxruntime calibrate as many tensors as we do (its default), and judge nothing.")
    ] = False,
    preset: Annotated[str, typer.Option(help="What the model's inputs are.")] = "reference",
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Inputs of a model without a preset.")] = None,
    only_ours: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    described = Preset.from_inputs([parse_input(text) for text in inputs]) if inputs else get_preset(preset)
    if only_ours:
        ours(model, faces, described, images)
        return
    wanted = peer if peer is not None else [p for p in peers.PEERS if modelopt_python or not p.startswith("modelopt")]
    table = Table("calibration", "CPU s", "peak GiB", "SSIM mean", "SSIM worst", "PSNR dB")
    with tempfile.TemporaryDirectory() as folder:
        faces, evaluation = (
            calibration.as_npz(path, described, Path(folder) / name) for path, name in ((faces, "a"), (evaluation, "b"))
        )
        faces = trimmed(faces, images, Path(folder) / "trimmed.npz")
        feeds = next(iter(calibration.batches_of(faces, described, images, images)))
        prepared = prepare(onnx.load(model), {name: values.shape[1:] for name, values in feeds.items()}).model
        path = Path(folder) / "prepared.onnx"
        onnx.save(prepared, path)
        if every_tensor:
            made = peers.quantise("onnxruntime-entropy", prepared, feeds, [], every_type=True)
            sys.stdout.write(f"onnxruntime-entropy, every tensor: {made.cpu_s:.1f} CPU s, {made.peak_gib:.2f} GiB\n")
            return
        view = GraphView(prepared)
        nodes, judge = convolutions(view), Judge(view, described, evaluation, judged)
        add_ours(table, view, nodes, judge, [str(path), *sys.argv[2:], "--faces", str(faces), "--only-ours"])
        for name in wanted:
            python = str(modelopt_python) if name.startswith("modelopt") else sys.executable
            made = peers.quantise(name, prepared, feeds, nodes, python=python)
            known = ranges_for(view, nodes, peers.amax_of(made.model), {})
            cost = [f"{made.cpu_s:.1f}", f"{made.peak_gib:.2f}"]
            table.add_row(name, *cost, *judge(lower(view, plan_of(view, nodes), known, Precision.FP32)))
            table.add_row(f"{name}, its own model", "", "", *judge(made.model))
    Console(width=100).print(table)
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {len(nodes)} convolutions\n")


def add_ours(table: Table, view: GraphView, nodes: list[str], judge: Judge, words: list[str]) -> None:
    """One pass, and a row for every rule that is computed from it, with and without equalised channels."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    affines = {
        name: Affine(np.array(exponents, np.int8), np.array(offsets, np.float32))
        for name, (exponents, offsets) in found["affines"].items()
    }
    cost = [f"{found['cpu_s']:.1f}", f"{found['peak_gib']:.2f}"]
    for rule, known in found["ranges"].items():
        for used in ({}, affines):
            ranges = ranges_for(view, nodes, known, used)
            model = lower(view, plan_of(view, nodes), ranges, Precision.FP32, used)
            label = f"ours, {rule}{', equalised' if used else ''}"
            table.add_row(label, *cost, *judge(model))
            cost = ["(same pass)", ""]


if __name__ == "__main__":
    app()
