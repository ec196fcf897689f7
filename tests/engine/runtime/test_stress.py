"""The stress run in small: the same script, fewer calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cuda_emulator.driver import EmulatedDriver

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "runtime_stress.py"


def test_no_leak_no_wrong_face_and_every_clients_results_in_order(emulated_cuda: EmulatedDriver) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--calls", "400", "--json"], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [(run["work"], run["batches"]) for run in found["runs"]] == [
        (work, batches) for work in ("lazy", "eager") for batches in ("1 to 4", "1")
    ]
    for run in found["runs"]:
        assert (run["answered"], run["wrong"], run["out_of_order"], run["freed_under_work"]) == (400, 0, 0, 0)
        assert run["left"] == {}
        if run["batches"] == "1":
            assert run["graphs_launched"] > 300
    assert set(found["host_overhead_us"]) == {"plain", "graph"}
