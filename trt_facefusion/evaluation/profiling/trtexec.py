"""NVIDIA's own `trtexec` on the same engine, as a second opinion."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_facefusion.errors import BackendUnavailableError, DeviceError
from trt_facefusion.evaluation.profiling.statistics import Latency
from trt_facefusion.storage.leftovers import scratch_folder

WARMUP_MS = 500
_TIMEOUT_S = 600
_TAIL = 300


@dataclass(frozen=True)
class TrtexecTimes:
    """What trtexec measured: the GPU's time from the start of the upload to the end of the download, and its parts."""

    latency: Latency
    upload_ms: float
    compute_ms: float
    download_ms: float
    calls: int
    command: tuple[str, ...]


def find(named: Path | None = None) -> Path:
    """The program ``named``, else the one on PATH.

    Raises:
        BackendUnavailableError: there is none.
    """
    program = shutil.which(str(named or "trtexec"))
    if program is None:
        raise BackendUnavailableError(
            f"trtexec was not found: {named if named is not None else 'it is not on PATH'}.",
            "It comes with NVIDIA's TensorRT packages and containers (/usr/src/tensorrt/bin, /opt/tensorrt/bin), not "
            "with pip: add its folder to PATH, or name it with --trtexec-path FILE. Without --trtexec all else works.",
        )
    return Path(program)


def run(program: Path, engine: Path, shapes: Mapping[str, Sequence[int]], calls: int, device: int = 0) -> TrtexecTimes:
    """Run ``program`` on ``engine``: one stream, transfers included, as one call of a runner does.

    ``shapes`` are those of the engine's dynamic inputs.

    Raises:
        DeviceError: it failed, or its times cannot be read; the message holds the end of its log.
    """
    with scratch_folder() as folder:
        times = Path(folder) / "times.json"
        command = [
            str(program),
            f"--loadEngine={engine}",
            f"--device={device}",
            f"--warmUp={WARMUP_MS}",
            f"--iterations={calls}",
            "--duration=0",
            "--infStreams=1",
            "--useSpinWait",
            f"--exportTimes={times}",
        ]
        if shapes:
            command.append("--shapes=" + ",".join(f"{n}:{'x'.join(map(str, shape))}" for n, shape in shapes.items()))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _make_error(f"it did not run: {error}") from error
        if done.returncode != 0:
            raise _make_error(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-_TAIL:]}")
        try:
            return parse(times.read_text(), command)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _make_error(f"its times cannot be read: {error}") from error


def parse(text: str, command: Sequence[str] = ()) -> TrtexecTimes:
    """The times in the JSON of ``--exportTimes``: a list of objects with h2dMs, computeMs, d2hMs and latencyMs.

    Raises:
        ValueError, KeyError, TypeError: they are not there.
    """
    rows = json.loads(text)
    if not isinstance(rows, list) or not rows:
        raise ValueError("there is no list of times")

    def median(key: str) -> float:
        return float(np.median([float(row[key]) for row in rows]))

    latency = Latency.of([float(row["latencyMs"]) for row in rows])
    return TrtexecTimes(latency, median("h2dMs"), median("computeMs"), median("d2hMs"), len(rows), tuple(command))


def _make_error(why: str) -> DeviceError:
    return DeviceError(
        f"trtexec failed: {why}",
        "trtexec must be of the TensorRT version that built the engine; try it by hand, or leave --trtexec out.",
    )
