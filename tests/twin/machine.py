"""An emulated machine with a GPU: the environment of processes that find a driver, pycuda and TensorRT's twin."""

from __future__ import annotations

import os
from pathlib import Path

from cuda_emulator import driver as emulated

ROOT = Path(__file__).resolve().parents[2]


def environment(version: str, memory_mb: int = 512, compute_capability: int = 86) -> dict[str, str]:
    """For a subprocess. Raises CannotBuildError where there is no emulated driver."""
    built = emulated.built()
    packages = [path for name, path in built.items() if name != "driver"]
    paths = [ROOT, ROOT / "tests", ROOT / "tests" / "twin" / "site", *packages]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "LD_LIBRARY_PATH": str(Path(built["driver"]).parent),
        "TRT_FF_TWIN": version,
        "TRT_FF_EMULATED_GPU": "1",
        "CUEMU_LAZY": "1",
        "CUEMU_LATENCY_US": "0",
        "CUEMU_MEM_MB": str(memory_mb),
        "CUEMU_CC": str(compute_capability),
    }
