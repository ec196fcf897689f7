"""Mutated checkpoints and hostile factories: refused with a cause, or loaded; never a traceback, a hang or a flood."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="pip install '.[torch]'")
ROOT = Path(__file__).resolve().parents[2]


def fuzz(count: int, seed: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("checkpoints.py")), str(count), str(seed)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1800, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"{count} cases" in done.stdout and ": 0 faults" in done.stdout


def test_a_few_mutated_checkpoints_and_factories() -> None:
    fuzz(6, 11)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_mutated_checkpoints_and_factories() -> None:
    fuzz(200, 11)
