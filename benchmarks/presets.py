"""Every known generator's stand-in: what becomes of INT8 and FP16, and of a photo that is swapped by the engine.

    python benchmarks/presets.py run --rows rows.jsonl [--only inswapper_128]
    python benchmarks/presets.py table --rows rows.jsonl

The stand-ins are those of the tests (`tests/preset_stand_ins.py`): the public file's names, operators and border, a few
channels wide, with random weights. `trt-ff build` (rules' plan, nothing tuned, at most 5 % SSIM lost) and `trt-ff swap`
run as processes, on ONNX Runtime; finished rows are kept in ``--rows`` and skipped the next time. ``outside`` is the
largest change of a pixel further from the face than its crop reaches, which must be 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import cv2
import numpy as np
import onnx
import typer
from architectures import read_rows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import clips  # noqa: E402
import nets  # noqa: E402
from preset_stand_ins import STAND_INS  # noqa: E402

from trt_facefusion.faces.align import TEMPLATES, fit_similarity  # noqa: E402
from trt_facefusion.faces.decode import read_image  # noqa: E402
from trt_facefusion.faces.detector import FaceDetector  # noqa: E402
from trt_facefusion.model.presets import get_preset  # noqa: E402

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)
SAMPLES = ROOT / "samples" / "faces"
COMMAND = [sys.executable, "-c", "from trt_facefusion.cli.main import main; import sys; sys.argv[0]='trt-ff'; main()"]
QUICK = ["--plan", "rules", "--rule", "percentile:99.99", "--corrections", "none", "--repairs", "0"]
QUICK += ["--max-ssim-drop", "0.05", "--max-calib", "8", "--max-eval", "4", "--backend", "onnxruntime"]
RowsOption = Annotated[Path, typer.Option(help="Finished rows, as JSON lines.")]


def words_of(name: str, folder: Path) -> list[str]:
    """Further options that a preset's files need."""
    preset, words = get_preset(name), []
    if preset.embedder == "arcface":
        words += ["--embedder", str(nets.save_arcface(folder / "arcface.onnx"))]
    if preset.embedding is not None and preset.embedding.converter is not None:
        words += ["--converter", str(nets.save_converter(folder / "crossface.onnx"))]
    return words


def call(words: list[str]) -> dict[str, Any]:
    """What the command line says with ``--json``: a result, or an error."""
    done = subprocess.run([*COMMAND, *words, "--json"], capture_output=True, text=True, check=False)
    return dict(json.loads(done.stdout))


def swap_photo(engine: Path, name: str, files: list[str], folder: Path) -> dict[str, Any]:
    """Swap a face of a 1080p frame; what is wrong with the result, if anything."""
    photo, out = folder / "photo.png", folder / f"{engine.name}.png"
    frame = clips.draw_frame(read_image(sorted(SAMPLES.glob("*.jpg"))[33]), 10, 1920, 1080)
    cv2.imwrite(str(photo), frame[..., ::-1])
    words = ["swap", "--engine", str(engine), "--target", str(photo), "-o", str(out), *files]
    if get_preset(name).swaps:
        words += ["--source", str(sorted(SAMPLES.glob("*.jpg"))[47])]
    told = call(words)
    if not out.is_file():
        return {"error": told["error"]["message"]}
    change = np.abs(read_image(out).astype(int) - frame).max(2)
    corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], np.float64)
    landmarks = FaceDetector().detect(frame)[0].landmarks
    back = cv2.invertAffineTransform(fit_similarity(landmarks, TEMPLATES[get_preset(name).crops[0][0]]))
    (left, top), (right, bottom) = (f(corners @ back.T, 0).astype(int) for f in (np.min, np.max))
    inside = np.zeros(change.shape, bool)
    inside[max(top - 3, 0) : bottom + 4, max(left - 3, 0) : right + 4] = True
    return {"outside": int(change[~inside].max()), "inside_mean": float(change[inside].mean())}


def make_row(name: str) -> dict[str, Any]:
    """Build and swap one stand-in."""
    started = time.monotonic()
    with TemporaryDirectory(prefix="presets-") as scratch:
        folder = Path(scratch)
        onnx.save(STAND_INS[name](), folder / f"{name}.onnx")
        files = words_of(name, folder)
        words = ["build", "--int8", "--fp16", "--onnx", f"{folder / name}.onnx", "--preset", name, *files, *QUICK]
        words += ["--calib", str(SAMPLES), "--no-report", "--output", f"{folder}/engines", "--cache", f"{folder}/cache"]
        built = call(words)
        row: dict[str, Any] = {"preset": name, "error": built.get("error", {}).get("message")}
        for engine in built.get("engines", []):
            figures = {key: engine[key] for key in ("precision", "passed", "fallback")}
            figures |= {"share": engine["macs_share"]["int8"], "ssim_drop": engine["accuracy"]["ssim_drop"]}
            row[engine["requested"]] = figures | swap_photo(Path(engine["path"]), name, files, folder)
    return row | {"seconds": round(time.monotonic() - started, 1)}


@app.command()
def run(rows: RowsOption, only: Annotated[list[str] | None, typer.Option(help="These presets.")] = None) -> None:
    """Make the rows that are not finished yet."""
    done = {row["preset"] for row in read_rows(rows)}
    for name in only or STAND_INS:
        if name not in done:
            row = make_row(name)
            print(json.dumps(row), flush=True)
            with rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


@app.command()
def table(rows: RowsOption) -> None:
    """Print the rows as a Markdown table."""
    print(
        "| preset | outcome | MACs in INT8 | SSIM drop INT8, FP16 | photo swapped by INT8, FP16: outside, inside | s |"
    )
    print("|---|---|---|---|---|---|")
    for row in read_rows(rows):
        engines = [row[precision] for precision in ("int8", "fp16") if precision in row]
        outcome = " + ".join(f"{e['precision']}{'' if e['passed'] else ' (not passed)'}" for e in engines)
        drops = ", ".join(f"{e['ssim_drop']:.2%}" for e in engines)
        photos = "; ".join(e.get("error") or f"{e['outside']}, {e['inside_mean']:.1f}" for e in engines)
        share = f"{engines[0]['share']:.1%}" if engines else ""
        print(f"| {row['preset']} | {row['error'] or outcome} | {share} | {drops} | {photos} | {row['seconds']:.0f} |")


if __name__ == "__main__":
    app()
