"""A clip swapped twice: in one go, and by a process that is killed half-way and started again.

The clip (720p, 25 frames a second, with sound) is made of the project's own sample faces. Shown are frames in and out,
whether the sound is the same packet by packet, frames per second, the share of each stage, how the memory grows, and
whether both files are the same.

    python benchmarks/clip.py ENGINE [--input NAME=...] [--seconds 10] [--work FOLDER]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Optional

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import clips  # noqa: E402

from trt_facefusion.faces.decode import read_image  # noqa: E402

_PAGE_KIB = 4
_RUN = "import sys; from trt_facefusion.cli.main import main; sys.argv[0] = 'trt-ff'; main()"


class Memory:
    """The resident memory of a process, in MiB, as it goes on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.values: list[float] = []
        self._process = process
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self._process.poll() is None:
            try:
                pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
            except (OSError, IndexError):
                return
            self.values.append(pages * _PAGE_KIB / 1024)
            time.sleep(0.5)

    def describe(self) -> str:
        """The peaks of the second and the last quarter: flat where they are alike."""
        quarter = max(len(self.values) // 4, 1)
        second, last = self.values[quarter : 2 * quarter], self.values[-quarter:]
        return f"peak of the second quarter {max(second or [0]):.0f} MiB, of the last {max(last or [0]):.0f} MiB"


def start(engine: Path, source: Path, clip: Path, out: Path, inputs: list[str]) -> subprocess.Popen[str]:
    words = ["swap", "--engine", engine, "--source", source, "--target", clip, "-o", out, "--json"]
    words += [word for text in inputs for word in ("--input", text)]
    return subprocess.Popen([sys.executable, "-c", _RUN, *map(str, words)], stdout=subprocess.PIPE, text=True)


def main(
    engine: Annotated[Path, typer.Argument(help="An engine's or a model's folder.")],
    seconds: Annotated[float, typer.Option(help="Length of the clip.")] = 10,
    inputs: Annotated[Optional[list[str]], typer.Option("--input", help="Of a bare ONNX file.")] = None,  # noqa: UP045
    work: Annotated[Optional[Path], typer.Option(help="Where clips are kept.")] = None,  # noqa: UP045
) -> None:
    faces = sorted((ROOT / "samples" / "faces").glob("*.jpg"))
    with TemporaryDirectory() as scratch:
        folder = work or Path(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        frames = round(seconds * clips.RATE)
        clip = clips.make_clip(folder / "clip.mp4", read_image(faces[33]), frames, 1280, 720)
        whole, resumed = folder / "whole.mp4", folder / "resumed.mp4"
        process = start(engine, faces[47], clip, whole, inputs or [])
        memory = Memory(process)
        result = json.loads(process.communicate()[0])
        print(f"{frames} frames in, {len(clips.read_frames(whole))} out, {result['faces']} faces swapped")
        print(f"sound: {'the same packets' if clips.read_sound(clip) == clips.read_sound(whole) else 'CHANGED'}")
        print(f"{result['video']['fps']:.2f} frames a second")
        print("shares:", ", ".join(f"{stage} {share:.1%}" for stage, share in result["shares"].items()))
        print(f"memory: {memory.describe()}")

        process = start(engine, faces[47], clip, resumed, inputs or [])
        journal = resumed.with_name(f".{resumed.name}.unfinished")
        half = 0.5 * whole.stat().st_size
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > half):
            time.sleep(0.1)
        process.kill()
        process.wait()
        print(f"killed; the file was there: {resumed.exists()}")
        again = json.loads(start(engine, faces[47], clip, resumed, inputs or []).communicate()[0])
        print(f"resumed behind frame {again['video']['resumed']} of {again['video']['frames']}")
        print(f"the same file: {whole.read_bytes() == resumed.read_bytes()}")


if __name__ == "__main__":
    typer.run(main)
