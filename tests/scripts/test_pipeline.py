"""The users' pipeline, and the workflow that runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "pipeline.sh"
WORKFLOW = ROOT / "docs" / "ci" / "github-actions.yml"


@pytest.fixture(scope="module")
def trt_ff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of this checkout."""
    command = tmp_path_factory.mktemp("bin") / "trt-ff"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m trt_facefusion.cli.main "$@"\n')
    command.chmod(0o755)
    return command


def run_pipeline(trt_ff: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "TRT_FF": str(trt_ff), "OMP_NUM_THREADS": "2"}
    return subprocess.run([SCRIPT, *options], capture_output=True, text=True, check=False, env=variables)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--faces and --output are needed"),
        (["--faces"], "--faces needs a value"),
        (["--fases", "x"], "no option --fases"),
        (["--faces", "/nowhere", "-o", "out"], "no folder /nowhere"),
        (["--faces", "/tmp", "-o", "out", "--precision", "int4"], "no precision int4"),
    ],
)
def test_what_it_does_not_understand_it_refuses(trt_ff: Path, options: list[str], message: str) -> None:
    ended = run_pipeline(trt_ff, *options)
    assert ended.returncode == 2 and message in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_it_packages_an_engine_spares_what_is_done_and_stops_at_a_broken_budget(
    trt_ff: Path, sample_faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--faces", sample_faces, "-o", out, "--count", "60", "--effort", "least", "--batch", "1:1:4"]
    start = time.monotonic()
    first = run_pipeline(trt_ff, *options)
    assert first.returncode == 0, first.stderr
    seconds = time.monotonic() - start
    for name in ("manifest.json", "plan.yaml", "typed.onnx", "report.html", "build.json", "calib_cache"):
        assert (out / name).exists(), name
    assert json.loads((out / "manifest.json").read_text())["precision"] == "int8"
    (model,) = {path.name.removesuffix("_photo") for path in (out / "model_repository").glob("*_photo")}
    assert (out / "model_repository" / model / "1" / "model.onnx").is_file()

    start = time.monotonic()
    second = run_pipeline(trt_ff, *options)
    assert second.returncode == 0, second.stderr
    assert time.monotonic() - start < seconds / 2
    assert all(f"{step}: up to date" in second.stderr for step in ("curate", "calibrate, plan", "package"))
    assert not (out / "model_repository" / model / "2").exists()

    broken = run_pipeline(trt_ff, *options, "--min-identity", "1.0", "--max-ssim-drop", "0.0")
    assert broken.returncode == 3 and "the step plan failed (exit code 3)" in broken.stderr
    assert not (out / "model_repository" / model / "2").exists()


def test_the_workflow_is_one_that_github_takes() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_workflow_may_only_read_and_keeps_what_a_failed_run_made() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = workflow["jobs"]["build"]["steps"]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    (kept,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    assert kept["if"] == "always()" and "faces" not in kept["with"]["path"].replace("model_repository", "")
    (cached,) = [step for step in steps if "cache@" in step.get("uses", "")]
    assert "hashFiles('faces/**', 'models/**')" in cached["with"]["key"]
    # No value that somebody types is written into a command.
    assert not any("${{" in step.get("run", "") for step in steps)


def test_the_workflow_calls_the_pipeline_as_it_is() -> None:
    text = WORKFLOW.read_text()
    known = set(re.findall(r"^    (?:[-\w| ]*)\)", SCRIPT.read_text(), re.MULTILINE))
    options = {name for line in known for name in re.findall(r"--?[\w-]+", line)}
    call = text[text.index("scripts/pipeline.sh --faces") :].split(" -- ")[0].split("            -- ")[0]
    assert set(re.findall(r"(?<=\s)--?[a-z][\w-]*", call)) <= options
