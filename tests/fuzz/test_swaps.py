"""Broken and difficult photos end as a swapped photo or with a reason: no traceback, no hang, bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("swaps.py")
HANG_S = 30.0


def fuzz(*words: object) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(json.loads(done.stdout))
    assert found["wrong"] == []
    assert found["made"] + sum(found["refused"].values()) == 2 * found["tried"]
    assert found["slowest_cpu_s"] < HANG_S
    assert found["peak_gib"] < 2
    return found


@pytest.mark.parametrize(
    ("first", "count"), [(0, 20), pytest.param(0, 2000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_broken_photos_are_swapped_or_refused(first: int, count: int) -> None:
    found = fuzz(first, count)
    assert found["tried"] == count and found["made"] >= count // 10


@pytest.mark.slow
def test_hard_photos_are_swapped_or_refused(shared_faces: Path) -> None:
    assert fuzz(0, 0, shared_faces / "hard")["tried"] >= 50
