"""What runs on a real GPU (tests/gpu, scripts/gpu_evidence.py) is itself run on the emulated driver and the twin."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from cuda_emulator.driver import CannotBuildError

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
