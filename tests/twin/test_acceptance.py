"""What runs on a real GPU (tests/gpu, scripts/gpu_evidence.py) is itself run on the emulated driver and the twin."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from cuda_emulator.driver import CannotBuildError

from trt_facefusion.engine.store.store import Store
from twin.builder import VERSION_10, VERSION_11
from twin.machine import ROOT, environment

pytestmark = pytest.mark.slow


def machine(version: str) -> dict[str, str]:
    try:
        return environment(version)
    except CannotBuildError as error:
        if os.environ.get("TRT_FF_REQUIRE_EMULATOR"):
            pytest.fail(str(error))
        pytest.skip(f"no emulated CUDA driver: {error}")


@pytest.mark.parametrize(("version", "skipped"), [(VERSION_10, 0), (VERSION_11, 3)])
def test_the_gpu_tests_pass_on_the_emulated_gpu(version: str, skipped: int) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    given = {**machine(version), "TRT_FF_REQUIRE_GPU": "1"}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    found = re.search(r"(\d+) passed(?:, (\d+) skipped)?", done.stdout)
    assert found and int(found[1]) > 10
    assert int(found[2] or 0) == skipped


def test_they_skip_with_a_reason_where_there_is_no_gpu() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    clean = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    if "passed" in done.stdout:
        pytest.skip("there is a GPU")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "no GPU" in done.stdout or "cannot be imported" in done.stdout


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", [VERSION_10, VERSION_11])
def test_the_acceptance_script_gathers_evidence_on_the_emulated_gpu(version: str, tmp_path: Path) -> None:
    for command in ("profile", "diff"):
        pytest.importorskip(f"trt_facefusion.cli.{command}")
    model = tiny.save(tiny.generator(), tmp_path / "tiny.onnx")
    output = tmp_path / "evidence.json"
    given = {**machine(version), "TRT_FF_INSTALLED": "1", "PYTHON": sys.executable, "EVIDENCE": str(output)}
    given["KEEP"] = str(tmp_path / "kept")
    build = ["--onnx", str(model), "--input", "image=image:32:0:1", "--rule", "max"]
    words = ["scripts/gpu_acceptance.sh", version[:2], "samples/faces", "--", *build]
    done = subprocess.run(words, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    evidence = json.loads(output.read_text())
    assert evidence["ok"] and evidence["emulated"]
    assert evidence["machine"]["gpus"][0]["target"] == "sm86"
    assert evidence["tests"]["failed"] == []
    assert set(evidence["engines"]) == set(evidence["latency_p50_ms"]) == {"fp32", "fp16", "int8"}
    for engine in evidence["engines"].values():
        assert engine["version"] == version
        assert engine["inspector"]
        assert engine["profile"]["throughput_per_s"] > 0
        assert engine["predicted"]["engines"][0]["predicted_ms"] > 0
        assert engine["measured"]["picture"]["ssim_drop"] == pytest.approx(engine["stand_in"]["ssim_drop"], abs=5e-3)
    assert "published" in evidence["fitted"]["error"]["message"]  # of the emulated GPU nothing is
    check_variants(evidence["variants"], typed=version == VERSION_10)
    tables = evidence["recalibration"] and evidence["recalibration"]["tables"]
    assert bool(tables and tables["amax"]) == (version == VERSION_10)


def check_variants(variants: dict[str, Any], *, typed: bool) -> None:
    """Every form was built, judged on its own and timed, and the one that is kept is one of those that are right."""
    forms = [variant["forms"].split(",") for variant in variants["tried"]]
    assert forms[0] == [""] and (forms[1] == ["typed"]) == typed
    changed = {names[-1].removeprefix("no-") for names in forms} - {"", "typed"}
    assert changed == {"shared-weight-scales", "flat-norms", "quantised-skips", "folded-scales", "shifts"}
    for variant in variants["tried"]:
        assert variant["right"] and variant["ssim_drop"] <= variant["max_ssim_drop"] and variant["p50_ms"] > 0
        assert variant["precision"] == "int8" and variant["int8_kernels"]["real"]
    graphs = {(Path(v["path"]) / "typed.onnx").read_bytes() for v in variants["tried"] if Path(v["path"]).exists()}
    assert len(graphs) != 1
    kept = variants["kept"]
    assert kept["forms"] in {variant["forms"] for variant in variants["tried"]}
    manifest = Store(Path(kept["stored"]).parent.parent).load(Path(kept["stored"]))
    assert manifest.precision == "int8"
    if kept["forms"]:
        assert manifest.command[manifest.command.index("--forms") + 1] == kept["forms"]
        assert Path(manifest.command[manifest.command.index("--plan") + 1]).exists()


def test_evidence_of_failure_is_written_too(tmp_path: Path) -> None:
    output = tmp_path / "evidence.json"
    words = [sys.executable, "scripts/gpu_evidence.py", "--faces", str(tmp_path), "--output", str(output)]
    clean = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    evidence = json.loads(output.read_text())
    assert not evidence["ok"]
    failed = [step for step in evidence["steps"] if not step["ok"]]
    # The float engines that the model of time is fitted on, and the engines themselves; nothing else is tried.
    assert [step["command"][1] for step in failed] == ["build", "build"]
    assert all("error:" in step["error"] for step in failed)
