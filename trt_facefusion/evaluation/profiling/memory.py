"""How much memory a model takes on the CPU: measured in a process of its own, where nothing else grows or is reused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from trt_facefusion.storage.leftovers import scratch_folder
from trt_facefusion.types import Feeds

_RUNS = 3
_TIMEOUT_S = 300
_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
def resident():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * __import__("resource").getpagesize()
model, feeds, threads = sys.argv[1:4]
feeds = dict(np.load(feeds))
before = resident()
with OnnxRuntimeRunner(Path(model), threads=int(threads) or None) as runner:
    for _ in range(%d):
        runner.infer(feeds)
    sys.stdout.write(str(resident() - before))
"""


def measure_resident_bytes(model: Path, feeds: Feeds, threads: int | None) -> int | None:
    """Resident memory that loading ``model`` and running ``feeds`` added; None where the system does not say."""
    if not Path("/proc/self/statm").exists():
        return None
    with scratch_folder() as folder:
        stored = Path(folder) / "feeds.npz"
        np.savez(stored, **dict(feeds))  # type: ignore[arg-type]
        command = [sys.executable, "-c", _SCRIPT % _RUNS, str(model), str(stored), str(threads or 0)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
            return int(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None


_PEAK_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from trt_facefusion.inference.open import OpenedModel, open_model
path, stored, feeds, threads = sys.argv[1:5]
feeds = dict(np.load(feeds))
model = open_model(Path(path)) if stored == "stored" else OpenedModel("", Path(path), Path(path))
def read(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))
before = read("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
with model.open_runner(threads=int(threads) or None) as runner:
    for _ in range(%d):
        runner.infer(feeds)
    sys.stdout.write(str(max(0, read("VmHWM") - before)))
"""


def measure_peak_bytes(engine: Path, stored: bool, feeds: Feeds, threads: int | None) -> int | None:
    """Bytes by which a process that loads ``engine`` and runs ``feeds`` grows at most, its library included.

    ``stored`` says whether it is an engine of the store or an ONNX file. None off Linux, or where it failed.
    """
    if not sys.platform.startswith("linux"):
        return None
    with scratch_folder() as folder:
        path = Path(folder) / "feeds.npz"
        np.savez(path, **dict(feeds))  # type: ignore[arg-type]
        arguments = (str(engine), "stored" if stored else "file", str(path), str(threads or 0))
        try:
            done = subprocess.run(
                [sys.executable, "-c", _PEAK_SCRIPT % _RUNS, *arguments],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=True,
            )
            return int(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
