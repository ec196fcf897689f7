"""Build, compare and time engines on this machine's GPU, and write everything that was found to one JSON file.

    scripts/gpu_evidence.py --faces samples/faces --output evidence.json [--junit tests.xml] [--work DIR] [--keep DIR]
        [-- BUILD ...]

``BUILD ...`` are options of `trt-ff build` (a model, its inputs); without any, the bundled generator is built. Every
step is a command line of `trt-ff` in a process of its own, and stands in the file with its time and its error. The INT8
engine is built in several forms (`gpu_variants.py`), and the fastest that is right is stored in ``--keep``. The file is
always written, whole; the exit code is 1 where a step failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_variants import FormSearch

from trt_facefusion import __version__
from trt_facefusion.storage.files import write_atomic

PRECISIONS = ("fp32", "fp16", "int8")
_TAIL = 4000


class Steps:
    """Runs commands and keeps what became of each."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []

    @property
    def ok(self) -> bool:
        return all(step["ok"] for step in self.done)

    def run(self, *words: str | Path, codes: tuple[int, ...] = (0,)) -> Any:
        """The JSON of one command; None where it failed. ``codes`` are the exit codes that are no failure."""
        command = ["trt-ff", *map(str, words), "--json"]
        print("·", *command, file=sys.stderr)
        started = time.monotonic()
        python = [sys.executable, "-m", "trt_facefusion.cli.main", *command[1:]]
        done = subprocess.run(python, capture_output=True, text=True, check=False)
        step = {"command": command, "seconds": round(time.monotonic() - started, 2), "exit_code": done.returncode}
        try:
            result = json.loads(done.stdout)
        except ValueError:
            result = None
        step["ok"] = done.returncode in codes and result is not None
        if not step["ok"]:
            step["error"] = done.stderr[-_TAIL:]
            print(done.stderr[-_TAIL:], file=sys.stderr)
        self.done.append(step)
        return result if step["ok"] else None


def gather(faces: Path, work: Path, keep: Path, build: list[str], junit: Path | None) -> dict[str, Any]:
    """Everything, in the order of the work; what depends on a step that failed is left out."""
    steps = Steps()
    machine = steps.run("doctor", codes=(0, 4))
    tests = None if junit is None else _tests(junit)
    common = ["--calib", faces, "--backend", "tensorrt", "--cache", work / "cache", "--no-report", *build]
    engines = [f"--{precision}" for precision in PRECISIONS]
    # First the model of time is fitted to this GPU, on engines that need no INT8: what comes then is reckoned with it.
    floats = steps.run("build", "--fp32", "--fp16", *common, "--output", work / "engines", codes=(0, 3))
    fitted = _fit(steps, floats, work)
    built = steps.run("build", *engines, *common, "--output", work / "engines", codes=(0, 3))
    found = {engine["requested"]: _engine(steps, engine) for engine in (built or {}).get("engines", [])}
    _compare(steps, found, faces, "--aligned" in build)
    _time(steps, found)
    _predict(steps, found, work)
    variants = _try_forms(steps, found, common, work, keep) if "--forms" not in build else None
    recalibrated = None
    if any(engine["version"].startswith("10.") for engine in found.values()):
        recalibrated = _recalibrated(steps, common, work)
    names = [gpu["name"] for gpu in (machine or {}).get("gpus", [])]
    return {
        "schema": 1,
        "tool": __version__,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "ok": steps.ok and bool(found) and (tests is None or not tests["failed"]),
        "emulated": any(name.startswith("cuemu") for name in names),
        "machine": machine,
        "tests": tests,
        "engines": found,
        "latency_p50_ms": {
            name: engine["profile"]["latency_ms"]["p50"]
            for name, engine in found.items()
            if engine["profile"] is not None
        },
        "fitted": fitted,
        "variants": variants,
        "recalibration": recalibrated,
        "steps": steps.done,
    }


def _engine(steps: Steps, built: dict[str, Any]) -> dict[str, Any]:
    """One engine: what is known of it, its layers as the inspector shows them, and its times."""
    path = Path(built["path"])
    manifest = steps.run("inspect", path) or {}
    return {
        "path": str(path),
        "precision": built["precision"],
        "version": built["backend_version"],
        "fallback": built["fallback"],
        "engine_bytes": built["engine_bytes"],
        "weights_bytes": built["weights_bytes"],
        "activations_bytes": manifest.get("activations_bytes"),
        "int8_kernels": built["int8_kernels"],
        "macs_share": built["macs_share"],
        "warnings": manifest.get("warnings"),
        "pins": manifest.get("pins"),
        "inspector": manifest.get("kernels"),
        "stand_in": built["accuracy"],
        "measured": None,
        "profile": None,
        "predicted": None,
    }


def _fit(steps: Steps, built: dict[str, Any] | None, work: Path) -> Any:
    """The factors of this GPU from the layers of float engines; an error where the table has no such GPU."""
    paths = list(dict.fromkeys(engine["path"] for engine in (built or {}).get("engines", [])))
    if not paths:
        return None
    against = ["--against", paths[1]] if len(paths) > 1 else []
    profiled = steps.run("profile", paths[0], *against, "--fit", "--cache", work / "cache", codes=(0, 2))
    return None if profiled is None else profiled.get("fitted", profiled)


def _predict(steps: Steps, engines: dict[str, Any], work: Path) -> None:
    """What the model says of each engine, to be held against its profile."""
    for engine in engines.values():
        engine["predicted"] = steps.run("estimate", engine["path"], "--cache", work / "cache", codes=(0, 2))


def _time(steps: Steps, engines: dict[str, Any]) -> None:
    """How fast each is; the others in turn with FP32, so that a clock that changes changes both."""
    slowest = engines.get("fp32", {}).get("path")
    for engine in engines.values():
        against = [] if slowest in {None, engine["path"]} else ["--against", slowest]
        engine["profile"] = steps.run("profile", engine["path"], *against)


def _compare(steps: Steps, engines: dict[str, Any], faces: Path, aligned: bool) -> None:
    """The engines themselves, on the GPU, against the FP32 network on the CPU."""
    if "fp32" not in engines:
        return
    reference = Path(engines["fp32"]["path"]) / "typed.onnx"
    for engine in engines.values():
        engine["measured"] = steps.run("diff", reference, engine["path"], *_list_diff_options(faces, aligned))


def _list_diff_options(faces: Path, aligned: bool) -> list[Any]:
    return ["--faces", faces, "--no-stand-in", *(["--aligned"] if aligned else [])]


def _try_forms(steps: Steps, engines: dict[str, Any], common: list[Any], work: Path, keep: Path) -> Any:
    """The INT8 engine in other forms of the typed graph: times, pictures, and the fastest that is right."""
    if not {"fp32", "int8"} <= engines.keys():
        return None
    reference = Path(engines["fp32"]["path"]) / "typed.onnx"
    compare = _list_diff_options(common[1], "--aligned" in common)
    return FormSearch(steps, common, work / "variants", keep, reference, compare).run(engines["int8"])


def _recalibrated(steps: Steps, common: list[Any], work: Path) -> Any:
    """TensorRT's own calibration against ours, and what became of the engine."""
    built = steps.run("build", "--int8", "--recalibrate", *common, "--output", work / "own", codes=(0, 3))
    if built is None:
        return None
    (engine,) = built["engines"]
    manifest = steps.run("inspect", engine["path"]) or {}
    tables = manifest.get("inputs", {}).get("settings", {}).get("recalibration")
    return {"accuracy": engine["accuracy"], "fallback": engine["fallback"], "tables": tables}


def _tests(junit: Path) -> dict[str, Any]:
    """What became of the GPU tests, from pytest's XML."""
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))
    skipped = {f"{c.get('classname')}.{c.get('name')}": s.get("message") for c in cases for s in c.iter("skipped")}
    failed = [f"{c.get('classname')}.{c.get('name')}" for c in cases if [*c.iter("failure"), *c.iter("error")]]
    return {"run": len(cases) - len(skipped), "failed": failed, "skipped": skipped}


def main(arguments: list[str]) -> int:
    own, _, build = (list(part) for part in _parted(arguments))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faces", type=Path, required=True, help="folder of photos to calibrate and judge on")
    parser.add_argument("--output", type=Path, default=Path("evidence.json"))
    parser.add_argument("--junit", type=Path, help="what `pytest -m gpu --junitxml` wrote")
    parser.add_argument("--keep", type=Path, default=Path("engines"), help="store that gets the fastest INT8 engine")
    parser.add_argument("--work", type=Path, help="folder for engines and tables (else a temporary one)")
    options = parser.parse_args(own)
    with tempfile.TemporaryDirectory() as scratch:
        evidence = gather(options.faces, options.work or Path(scratch), options.keep, build, options.junit)
    write_atomic(options.output, (json.dumps(evidence, indent=1) + "\n").encode())
    failed = [" ".join(step["command"][:3]) for step in evidence["steps"] if not step["ok"]]
    print(f"{options.output}: {'everything ran' if evidence['ok'] else 'NOT everything ran: ' + '; '.join(failed)}")
    kept = (evidence["variants"] or {}).get("kept")
    if kept is not None:
        form = kept["forms"] or "as `trt-ff build` makes it"
        figures = f"{kept['p50_ms']} ms, SSIM drop {kept['ssim_drop']}"
        print(f"fastest INT8 that is right: {form}, {figures}: {kept['stored']}")
    return 0 if evidence["ok"] else 1


def _parted(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What stands before and behind ``--``."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at : at + 1], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
