"""Whether two versions of this project build the same engines, to the byte: digests of everything that builds leave.

    python benchmarks/golden.py record before.json          (in the tree of the one version)
    python benchmarks/golden.py record after.json           (in the tree of the other)
    python benchmarks/golden.py compare before.json after.json

Engines, typed graphs, plans, calibrations and searches are compared by digest; manifests and what ``--json`` prints by
value, without times and dates. The effort is named, so that nothing depends on how fast the machine is. Numbers are
those of one machine: onnxruntime sums in another order on another number of cores. CycleGAN's file is not part of the
repository (TRT_FF_MODELS names the folder that holds ``generator/vintagify_cyclegan_A2B.onnx``); without it that case
is left out, and said so.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
ROOT = Path(__file__).resolve().parents[1]
MODELS = Path(os.environ.get("TRT_FF_MODELS", ROOT.parent / "shared" / "models"))
CYCLEGAN = MODELS / "generator" / "vintagify_cyclegan_A2B.onnx"
VOLATILE = {"created", "seconds", "cost", "effort", "origin", "build.log"}
"""Fields that hold times and dates, or the place of a file."""
JSON_FILES = {"manifest.json", "search.json"}
RTX, CPU = ("--backend", "tensorrt-rtx", "--target", "sm86"), ("--backend", "onnxruntime")


@dataclass(frozen=True)
class Case:
    """One build: where its model comes from, and the arguments of `trt-ff build`."""

    model: str
    arguments: tuple[str, ...]


CASES = {
    "reference-rtx": Case("", ("--int8", "--fp16", "--fp32", "--effort", "full", "--max-calib", "32", *RTX)),
    "reference-cpu": Case("", ("--int8", "--fp16", "--fp32", "--effort", "reduced", "--max-calib", "24", *CPU)),
    "swapper-rtx": Case("swapper", ("--int8", "--fp16", "--effort", "full", "--max-calib", "16", *RTX)),
    "swapper-cpu": Case("swapper", ("--int8", "--fp16", "--effort", "full", "--max-calib", "16", *CPU)),
    "swapper-rules": Case("swapper", ("--int8", "--plan", "rules", "--rule", "entropy", "--max-calib", "16", *CPU)),
    "swapper-falls-back": Case(
        "swapper", ("--int8", "--effort", "least", "--max-calib", "16", "--max-ssim-drop", "0.00000001", *CPU)
    ),
    "cyclegan-rtx": Case("cyclegan", ("--int8", "--fp16", "--effort", "least", "--max-calib", "8", *RTX)),
    "cyclegan-cpu": Case("cyclegan", ("--int8", "--effort", "least", "--max-calib", "8", *CPU)),
}


def model_arguments(name: str, folder: Path) -> list[str] | None:
    """How `trt-ff build` is told of a model; None where its file is not at hand."""
    if not name:
        return []
    if name == "cyclegan":
        if not CYCLEGAN.is_file():
            return None
        return ["--onnx", str(CYCLEGAN), "--input", "input=image:256:-1:1"]
    sys.path.insert(0, str(ROOT / "tests"))
    import nets
    import onnx

    path = folder / "swapper.onnx"
    onnx.save(nets.swapper(width=8, blocks=2, size=64, embedding=128), path)
    return ["--onnx", path.name, "--input", "target=image:64:-1:1", "--input", "source=embedding"]


def built(case: Case) -> dict[str, Any] | None:
    """Digests and values of everything that one build leaves."""
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        model = model_arguments(case.model, folder)
        if model is None:
            return None
        (folder / "faces").symlink_to(ROOT / "samples" / "faces")
        command = [sys.executable, "-c", "from trt_facefusion.cli.main import main; main()", "build", *model]
        command += ["--calib", "faces", "--max-eval", "8", *case.arguments, "--json", "--no-report"]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
        )
        found: dict[str, Any] = {"exit_code": done.returncode}
        if "{" not in done.stdout:
            return found | {"error": done.stderr[-2000:]}
        found["json"] = steady(json.loads(done.stdout[done.stdout.index("{") :]))
        return found | dict(files(folder, "engines")) | dict(files(folder, "calib_cache"))


def files(folder: Path, inside: str) -> Iterator[tuple[str, Any]]:
    """Path -> digest; of a manifest its values."""
    for path in sorted((folder / inside).rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in JSON_FILES or path.name.endswith(".search.json"):
            yield name, steady(json.loads(path.read_text()))
        elif path.is_file() and path.suffix != ".log" and not path.name.startswith("."):
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def steady(value: Any) -> Any:
    """``value`` without times and dates."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if key not in VOLATILE}
        if "search.json" in kept.get("files", {}):  # compared by value, without its seconds
            kept["files"] = {key: inner for key, inner in kept["files"].items() if key != "search.json"}
        if isinstance(kept.get("kernels"), list):
            kept["kernels"] = sorted(map(_describe_kernel, kept["kernels"]))
        return {key: steady(inner) for key, inner in kept.items()}
    return [steady(inner) for inner in value] if isinstance(value, list) else value


def _describe_kernel(kernel: dict[str, Any]) -> str:
    """A kernel without the names of what onnxruntime inserts: it numbers them as its threads happen to run."""
    types = {side: [tensor["dtype"] for tensor in kernel[side]] for side in ("inputs", "constants", "outputs")}
    return json.dumps([kernel["type"], "" if kernel["type"].startswith("Reorder") else kernel["nodes"], types])


def differences(first: Any, second: Any, where: str = "") -> Iterator[str]:
    """Where two values differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted({*first, *second}):
            yield from differences(first.get(key), second.get(key), f"{where}/{key}")
    elif first != second:
        yield f"{where}: {json.dumps(first)[:200]} / {json.dumps(second)[:200]}"


@app.command()
def record(
    output: Path, only: Annotated[list[str] | None, typer.Option(help="These cases, added to the file.")] = None
) -> None:
    """Build every case and write what it left as JSON."""
    found: dict[str, Any] = json.loads(output.read_text()) if only and output.is_file() else {}
    for name in only or CASES:
        started = time.monotonic()
        digests = built(CASES[name])
        told = "left out: no file" if digests is None else f"exit code {digests['exit_code']}"
        print(f"{name}: {told}, {time.monotonic() - started:.0f} s", flush=True)
        if digests is not None:
            found[name] = digests
            output.write_text(json.dumps(found, indent=1, sort_keys=True))


@app.command()
def compare(first: Path, second: Path) -> None:
    """Name everything in which two recordings differ; exit code 1 if anything does."""
    found = list(differences(json.loads(first.read_text()), json.loads(second.read_text())))
    print("\n".join(found) or "equal")
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    app()
