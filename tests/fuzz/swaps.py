"""Broken photos swapped, and photos swapped with broken ones: ``python tests/fuzz/swaps.py FIRST COUNT [FOLDER]``.

The photos are those of `photos.py`; with a FOLDER its files are taken instead. Each is a target, then a source. Prints
one JSON object: how often a picture came out, the reasons where none did, what was wrong, and time and memory at most.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from memory import peak_bytes
from nets import swapper
from photos import broken, whole

from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.faces.decode import read_image
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.swap.swapper import Swapper

INPUTS = ("target=image:32:0:1:template=arcface_128", "source=embedding")


def open_swapper(folder: Path) -> Swapper:
    """Of a tiny network with random weights."""
    onnx.save(swapper(embedding=128), folder / "net.onnx")
    return Swapper(folder / "net.onnx", contract=Contract(Preset.from_inputs([parse_input(text) for text in INPUTS])))


def list_files(first: int, count: int, folder: Path) -> Iterator[Path]:
    """The files to try, written one by one."""
    for number in range(first, first + count):
        name, data = broken(number)
        path = folder / name
        path.write_bytes(data)
        yield path
        path.unlink()


def swap_one(swaps: Swapper, path: Path, sound: Path, out: Path, reasons: Counter[str]) -> int:
    """How many pictures came out of ``path`` as a target and as a source; one that did is read back."""
    made = 0
    for role, source, target in (("target", sound, path), ("source", path, sound)):
        try:
            swapped = swaps.swap(source, target)
            saved = swapped.save(out / "swapped.png")
        except TrtFaceFusionError as error:
            if not (error.message.strip() and error.remedy.strip()):
                raise AssertionError(f"{path.name}: {error!r} says nothing") from error
            reasons[f"{role}: {type(error).__name__}"] += 1
            continue
        if read_image(saved).shape != swapped.pixels.shape:
            raise AssertionError(f"{path.name}: the picture that was written is another")
        made += 1
    return made


def swap(files: Iterator[Path], scratch: Path) -> dict[str, object]:
    """Swap all ``files``."""
    sound, made, slowest, tried = scratch / "sound.jpg", 0, 0.0, 0
    sound.write_bytes(whole(1, "baseline.jpg"))
    reasons: Counter[str] = Counter()
    wrong: list[str] = []
    with open_swapper(scratch) as swaps:
        for path in files:
            started = time.process_time()
            try:
                made += swap_one(swaps, path, sound, scratch, reasons)
            except Exception as error:  # whatever it is, it is the finding
                wrong.append(f"{path.name}: {type(error).__name__}: {error}"[:300])
            slowest, tried = max(slowest, time.process_time() - started), tried + 1
    return {
        "tried": tried,
        "made": made,
        "refused": dict(reasons),
        "wrong": wrong,
        "slowest_cpu_s": slowest,
        "peak_gib": peak_bytes() / (1 << 30),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch) / "in"
        folder.mkdir()
        if len(sys.argv) > 3:
            files: Iterator[Path] = iter(sorted(path for path in Path(sys.argv[3]).iterdir() if path.is_file()))
        else:
            files = list_files(int(sys.argv[1]), int(sys.argv[2]), folder)
        json.dump(swap(files, Path(scratch)), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
