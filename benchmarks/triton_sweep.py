"""The ensemble in a real Triton on loopback, at 1 to 16 clients, beside the local pipeline in as many threads.

    scripts/get_triton.sh && python benchmarks/triton_sweep.py ENGINE SOURCE TARGET [--seconds 10] [--json out.json]

ENGINE is an engine of onnxruntime; stand-ins serve it where Triton's own backend is not (see
tests/triton_repository/stand_in_backend.py), so times are those of a CPU and of Triton's way, not of its GPU backends.
Each answer is held against the first one of its kind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "triton_repository")]

from real_server import find_environment, run_triton  # noqa: E402

from trt_facefusion.swap.photo import decode_photo  # noqa: E402
from trt_facefusion.swap.photo_file import JPEG, encode_photo  # noqa: E402
from trt_facefusion.swap.swapper import Swapper  # noqa: E402
from trt_facefusion.triton.configs import ServingSettings  # noqa: E402
from trt_facefusion.triton.repository import PackageRequest, package_engines  # noqa: E402

CLIENTS = (1, 2, 4, 8, 16)
Swap = Callable[[], bytes]


@dataclass(frozen=True)
class Row:
    """What ``clients`` got from ``server``: photos a second, milliseconds; faces of one inference in the mean."""

    server: str
    clients: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    faces_per_inference: float | None = None


def drive(server: str, swap: Swap, clients: int, seconds: float) -> Row:
    """``clients`` ask one after the other for ``seconds``; answers that differ from the first count as failed."""
    expected = swap()
    times: list[float] = []
    failures: list[str] = []
    end = time.monotonic() + seconds

    def ask() -> None:
        while time.monotonic() < end:
            start = time.perf_counter()
            try:
                if swap() != expected:
                    failures.append("another picture")
            except Exception as error:
                failures.append(str(error))
            times.append(time.perf_counter() - start)

    start = time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    rate = (len(times) - len(failures)) / (time.perf_counter() - start)
    return Row(server, clients, round(rate, 2), round(float(p50), 1), round(float(p99), 1), len(failures))


def sweep_local(engine: Path, source: Path, target: Path, seconds: float) -> list[Row]:
    photo = decode_photo(target.read_bytes())
    with Swapper(engine) as swapper:
        lock = threading.Lock()

        def swap() -> bytes:
            prepared = swapper.prepare(source, photo)
            with lock:  # a runner takes one call at a time
                rendered = swapper.render(prepared.tasks, prepared.identity)
            return encode_photo(swapper.complete(prepared, rendered).photo, JPEG, swapper.provenance.mark)

        return [drive("local", swap, clients, seconds) for clients in CLIENTS]


def sweep_triton(engine: Path, source: bytes, target: bytes, seconds: float, settings: ServingSettings) -> list[Row]:
    environment = find_environment()
    if environment is None:
        raise SystemExit("no tritonserver: run scripts/get_triton.sh")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "model_repository"
        package_engines(PackageRequest((engine,), root, "swap", settings=settings))
        with run_triton(environment, Path(folder), root, ["swap_photo"]) as triton:
            for clients in CLIENTS:
                before = triton.metric("nv_inference_count", "swap"), triton.metric("nv_inference_exec_count", "swap")
                row = drive("triton", lambda: triton.swap("swap_photo", [source], target), clients, seconds)
                faces = triton.metric("nv_inference_count", "swap") - before[0]
                runs = triton.metric("nv_inference_exec_count", "swap") - before[1]
                rows.append(Row(**{**asdict(row), "faces_per_inference": round(faces / max(runs, 1), 2)}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("engine", "source", "target"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--step-instances", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = ServingSettings(step_instances=options.step_instances)
    photos = options.source.read_bytes(), options.target.read_bytes()
    rows = sweep_local(options.engine, options.source, options.target, options.seconds)
    rows += sweep_triton(options.engine, *photos, options.seconds, settings)
    print("| server | clients | photos/s | p50 ms | p99 ms | failed | faces per inference |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join('' if cell is None else str(cell) for cell in asdict(row).values())} |")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
