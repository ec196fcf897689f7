"""A contact sheet of whole swaps: source, photo, FP32, FP16, INT8, and what INT8 differs from FP32, eight times.

    python benchmarks/swap_sheet.py engines/reference --sheet docs/swaps.jpg

Cross pairs of the sample faces go through everything that `trt-ff swap` does. Engines for a GPU are taken as
their typed ONNX on the CPU. The figures below the sheet are of the photos as they come out, pasted back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from trt_facefusion.faces.decode import read_image
from trt_facefusion.swap.engines import ChainOptions
from trt_facefusion.swap.swapper import Swapper
from trt_facefusion.types import Precision

SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "faces"
COLUMNS, SIDE = 2, 160
GAP = 6  # pixels between pairs
AMPLIFIED = 8
Pixels = NDArray[np.uint8]


def choose_pairs(faces: list[Path], count: int) -> list[tuple[Path, Path]]:
    """Sources and targets, evenly over the samples; nobody twice."""
    places = np.linspace(0, len(faces) - 1, 2 * count).round().astype(int)
    chosen = [faces[place] for place in places]
    return list(zip(chosen[:count], reversed(chosen[count:]), strict=True))


def swap_all(engine: Path, precision: Precision, pairs: list[tuple[Path, Path]]) -> list[Pixels]:
    """The photos of all ``pairs`` by the engine of ``precision``."""
    (folder,) = engine.glob(f"{precision.value}-*")
    with Swapper(folder, options=ChainOptions(stand_in=True)) as swapper:
        return [swapper.swap(source, target).pixels for source, target in pairs]


def shrink(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def draw(rows: list[list[Pixels]]) -> Pixels:
    """All rows, in columns, on white."""
    strips = [np.pad(np.hstack([shrink(cell) for cell in row]), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
              for row in rows]  # fmt: skip
    height = len(strips) // COLUMNS
    return np.hstack([np.vstack(strips[i * height : (i + 1) * height]) for i in range(COLUMNS)])


def main(
    engine: Annotated[Path, typer.Argument(help="A model's folder with an engine of every precision.")],
    sheet: Annotated[Path, typer.Option(help="The JPEG or PNG to write.")] = Path("swaps.jpg"),
    count: Annotated[int, typer.Option("--pairs", min=2, help="An even number of pairs.")] = 12,
) -> None:
    pairs = choose_pairs(sorted(SAMPLES.glob("*.jpg")), count // 2 * 2)
    made = {precision: swap_all(engine, precision, pairs) for precision in Precision}
    rows = []
    for number, (source, target) in enumerate(pairs):
        fp32, fp16, int8 = (made[precision][number] for precision in (Precision.FP32, Precision.FP16, Precision.INT8))
        amplified = np.clip(128 + AMPLIFIED * (int8.astype(int) - fp32), 0, 255).astype(np.uint8)
        rows.append([read_image(source), read_image(target), fp32, fp16, int8, amplified])
        error = {name: np.abs(other.astype(int) - fp32) for name, other in (("FP16", fp16), ("INT8", int8))}
        told = ", ".join(f"{name} {e.max()} of 255 at most, mean {e.mean():.3f}" for name, e in error.items())
        print(f"{source.stem} into {target.stem}: {told}")
    if not cv2.imwrite(str(sheet), draw(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88]):
        raise typer.BadParameter(f"{sheet} cannot be written: does the folder exist, does the name end in .jpg?")


if __name__ == "__main__":
    typer.run(main)
