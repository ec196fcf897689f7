"""What calibration costs: CPU seconds, wall seconds and peak memory of one pass, against a plain FP32 pass.

Each run is a process of its own, so that its peak memory is its own. The figures to compare are those of one table: on
a shared machine CPU seconds are the steadier column.

    python benchmarks/calibration.py MODEL.onnx --faces FOLDER_OR_NPZ --images 50 --images 200 --images 749
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from rich.console import Console
from rich.table import Table

from trt_facefusion.build.tuning.calibration_pass import LOOK_FACES
from trt_facefusion.build.tuning.histograms import collect_histograms, find_int8_inputs, find_watched_tensors
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.presets import Preset, get_preset, parse_input
from trt_facefusion.quantization.calibration import Batches, Histogram, collect, parse_rule
from trt_facefusion.quantization.correction.channel_affine import Affines
from trt_facefusion.sampling import spread
from trt_facefusion.types import Feeds

PLAIN_BATCH = 4

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def as_npz(faces: Path, preset: Preset, folder: Path) -> Path:
    """An .npz with crops [N,S,S,3] uint8 RGB and embeddings [N,D]: ``faces`` itself, or read from that folder once."""
    if faces.is_file():
        return faces
    from trt_facefusion.faces.embedder import DlibEmbedder
    from trt_facefusion.faces.folder import read_faces

    found = read_faces(faces, template=preset.template, size=preset.image.size, embedder=DlibEmbedder())
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "faces.npz", crops=found.crops, embeddings=found.embeddings)
    return folder / "faces.npz"


def read_npz(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops and embeddings; also of a training cache (`calib_crops` [N,3,S,S] with a margin, two embeddings each)."""
    data = np.load(path)
    crops = data["crops"] if "crops" in data else data["calib_crops"].transpose(0, 2, 3, 1)
    embeddings = data["embeddings"] if "embeddings" in data else data["calib_embeddings"][:, 0]
    margin = (crops.shape[1] - size) // 2
    return crops[:, margin : margin + size, margin : margin + size], embeddings


def batches_of(faces: Path, preset: Preset, images: int, batch: int) -> Batches:
    crops, embeddings = read_npz(faces, preset.image.size)

    def feeds(indices: Sequence[int]) -> Feeds:
        chosen = np.array(indices) % len(crops)  # more images than faces: start over
        inputs = {preset.image.name: preset.image.encode(crops[chosen])}
        if preset.embedding is not None:
            inputs[preset.embedding.name] = preset.embedding.encode(embeddings[(chosen + 1) % len(crops)])
        return inputs

    return Batches(feeds, images, batch)


def plain(model: onnx.ModelProto, batches: Batches, spinning: str = "1") -> None:
    """FP32 inference with nothing looked at, onnxruntime's defaults, in the batches that it is fastest with."""
    import onnxruntime as ort

    batches = dataclasses.replace(batches, batch_size=PLAIN_BATCH)

    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for feeds in batches:
        session.run(None, dict(feeds))


def plain_without_spinning(model: onnx.ModelProto, batches: Batches) -> None:
    """The stricter floor: onnxruntime's threads sleep while they wait, as in our pass."""
    plain(model, batches, spinning="0")


def whole_step(
    model: onnx.ModelProto, batches: Batches, threads: int | None = None
) -> tuple[dict[str, Histogram], Affines]:
    """What a build does: a look at some faces, then histograms on all of them."""
    chosen = spread(batches.count, LOOK_FACES)
    few = Batches(lambda indices: batches.feeds([chosen[i] for i in indices]), len(chosen), 1)
    return collect_histograms(GraphView(model), few, batches, threads=threads)


def pass_alone(model: onnx.ModelProto, batches: Batches) -> None:
    """The histograms of what INT8 may quantise, without the look at some faces and without scaled channels."""
    view = GraphView(model)
    watched, aliases = find_watched_tensors(view)
    read = {aliases.get(name, name) for name in find_int8_inputs(view)}
    collect(model, [name for name in watched if name in read], batches)


def calibration_step(model: onnx.ModelProto, batches: Batches) -> None:
    """The whole step, its result dropped."""
    whole_step(model, batches)


def step_and_thresholds(model: onnx.ModelProto, batches: Batches) -> None:
    """The whole step, and every rule on every histogram."""
    for histogram in whole_step(model, batches)[0].values():
        for rule in ("entropy", "mse", "percentile", "max"):
            parse_rule(rule)(histogram)


RUNS: dict[str, Callable[[onnx.ModelProto, Batches], None]] = {
    "plain": plain,
    "plain, not spinning": plain_without_spinning,
    "histograms": pass_alone,
    "calibration step": calibration_step,
    "step, all rules": step_and_thresholds,
}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(run: str, model: onnx.ModelProto, batches: Batches) -> dict[str, float]:
    before_gib, wall, cpu = peak_gib(), time.perf_counter(), cpu_seconds()
    RUNS[run](model, batches)
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": cpu_seconds() - cpu,
        "peak_gib": peak_gib(),
        "grown_gib": peak_gib() - before_gib,
    }


def in_a_process(run: str, images: int, faces: Path) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--faces", str(faces), "--only", f"{run}@{images}"]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return figures


@app.command()
def main(
    model: Path,
    faces: Annotated[Path, typer.Option(help="A folder of photos, or an .npz with crops and embeddings.")],
    images: Annotated[list[int] | None, typer.Option(help="How many images; may be given several times.")] = None,
    batch: Annotated[int, typer.Option(help="Images per batch of our pass.")] = 1,
    repeats: Annotated[int, typer.Option(help="Runs of each kind, in turns; the median is shown.")] = 3,
    preset: Annotated[str, typer.Option(help="What the model's inputs are.")] = "reference",
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Inputs of a model without a preset.")] = None,
    run: Annotated[list[str] | None, typer.Option(help=f"Only these, of {', '.join(RUNS)}; always with plain.")] = None,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    described = Preset.from_inputs([parse_input(text) for text in inputs]) if inputs else get_preset(preset)
    if only:
        name, _, number = only.partition("@")
        batches = batches_of(faces, described, int(number), batch)
        sys.stdout.write(json.dumps(measure(name, onnx.load(model), batches)))
        return
    table = Table("images", "run", "CPU s", "ratio", "wall s", "ratio", "peak GiB", "grown GiB")
    with tempfile.TemporaryDirectory() as folder:
        npz = as_npz(faces, described, Path(folder))
        for count in images or [200]:
            figures: dict[str, list[dict[str, float]]] = {
                kind: [] for kind in RUNS if not run or kind in ("plain", *run)
            }
            for _, kind in itertools.product(range(repeats), figures):
                figures[kind].append(in_a_process(kind, count, npz))
            add_rows(table, count, figures)
    console = Console()
    console.print(table)
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")


def add_rows(table: Table, images: int, figures: dict[str, list[dict[str, float]]]) -> None:
    def ratio(run: str, key: str) -> float:
        return float(np.median([a[key] / b[key] for a, b in zip(figures[run], figures["plain"], strict=True)]))

    for run, runs in figures.items():
        median = {key: float(np.median([r[key] for r in runs])) for key in runs[0]}
        seconds = [f"{x:.{n}f}" for key in ("cpu_s", "wall_s") for x, n in ((median[key], 1), (ratio(run, key), 2))]
        table.add_row(str(images), run, *seconds, f"{median['peak_gib']:.2f}", f"{median['grown_gib']:.2f}")


if __name__ == "__main__":
    app()
