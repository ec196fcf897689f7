"""Broken photos end as a face or as a skip with a reason: no traceback, no hang, no more than 2 GiB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("photos.py")
HANG_S = 30.0


@pytest.mark.parametrize(
    ("first", "count"), [(0, 40), pytest.param(0, 1000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_broken_photos_end_as_a_face_or_with_a_reason(first: int, count: int) -> None:
    command = [sys.executable, str(SCRIPT), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 + count)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert not any(Path(name).suffix for name in found["unrecognised"]), "a photo by its name is never passed over"
    assert found["without_reason"] == []
    assert found["faces"] == found["cut_again"] >= count // 10
    assert found["faces"] + sum(found["skipped"].values()) + len(found["unrecognised"]) == count
    assert found["slowest_cpu_s"] < HANG_S
    assert found["peak_gib"] < 2
