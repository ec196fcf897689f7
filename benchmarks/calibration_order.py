"""Whether the order of the faces, the batch size and the number of threads change a calibration, and by how much.

Shuffles must give the same bytes of the cache and its JSON; other batch sizes and threads let onnxruntime add up in
another order, so that scales may differ in the last digits.

    python benchmarks/calibration_order.py MODEL.onnx --faces samples/faces --shuffles 20
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import calibration
import numpy as np
import onnx
import typer
from rich.console import Console
from rich.table import Table

from trt_facefusion.model.presets import get_preset
from trt_facefusion.quantization.calibration import Batches, Calibration, CalibrationTable
from trt_facefusion.quantization.calibration.cache import save

RULES = ("entropy", "mse", "percentile:99.99", "max")
BATCH_SIZES = (1, 2, 4, 8)
THREADS = (1, 2)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def shuffled(batches: Batches, seed: int) -> Batches:
    """The same samples in another order; seed 0 is the order they come in."""
    order = np.random.default_rng(seed).permutation(batches.count) if seed else np.arange(batches.count)
    return replace(batches, feeds=lambda indices: batches.feeds([int(order[i]) for i in indices]))


def calibrated(model: onnx.ModelProto, batches: Batches, threads: int | None = None) -> Calibration:
    """The calibration step of a build, by the rule of the first of `RULES`."""
    histograms, affines = calibration.whole_step(model, batches, threads)
    exponents = {name: tuple(affine.exponents.tolist()) for name, affine in affines.items()}
    offsets = {name: tuple(affine.offsets.tolist()) for name, affine in affines.items()}
    return Calibration("model", "", "", histograms, RULES[0], exponents=exponents, offsets=offsets)


def digest_of(found: Calibration) -> str:
    """One digest over the bytes of both files, by every rule."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        for rule in RULES:
            path = save(found.with_rule(rule), Path(folder))
            digest.update(path.read_bytes() + path.with_suffix(".json").read_bytes())
    return digest.hexdigest()


def tables(found: Calibration) -> list[CalibrationTable]:
    """The table of every rule."""
    return [found.with_rule(rule).table for rule in RULES]


def largest_difference(first: Sequence[CalibrationTable], second: Sequence[CalibrationTable]) -> tuple[float, str]:
    """The largest relative difference of any scale, and where."""
    return max(
        (abs(one[name] / other[name] - 1), f"{name} by {rule}")
        for rule, one, other in zip(RULES, first, second, strict=True)
        for name in one
    )


@app.command()
def main(
    model: Path,
    faces: Annotated[Path, typer.Option(help="A folder of photos, or an .npz with crops and embeddings.")],
    images: Annotated[int, typer.Option(help="How many images.")] = 50,
    shuffles: Annotated[int, typer.Option(help="Orders to try.")] = 20,
    preset: Annotated[str, typer.Option(help="What the model's inputs are.")] = "reference",
) -> None:
    described, loaded = get_preset(preset), onnx.load(model)
    with tempfile.TemporaryDirectory() as folder:
        npz = calibration.as_npz(faces, described, Path(folder))
        batches = calibration.batches_of(npz, described, images, 4)
        digests = {digest_of(calibrated(loaded, shuffled(batches, seed))) for seed in range(shuffles + 1)}
        sys.stdout.write(f"{shuffles} shuffles of {images} images: {len(digests)} different caches\n")
        table = Table("batch", "threads", "largest relative difference of a scale", "tensor")
        expected = tables(calibrated(loaded, batches, 2))
        for size, threads in itertools.product(BATCH_SIZES, THREADS):
            found = tables(calibrated(loaded, replace(batches, batch_size=size), threads))
            difference, where = largest_difference(expected, found)
            table.add_row(str(size), str(threads), f"{difference:.2e}", where if difference else "")
    Console(width=100).print(table)
    raise typer.Exit(code=len(digests) != 1)


if __name__ == "__main__":
    app()
