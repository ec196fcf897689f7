"""Kernels of real engines, from build logs of TensorRT-RTX 1.7.1."""

from __future__ import annotations

import re
from pathlib import Path

from trt_facefusion.engine.backends.base import Kernel
from trt_facefusion.engine.backends.rtx_log import parse

DATA = Path(__file__).parents[1] / "backends" / "data"


def read_kernels(name: str) -> dict[str, Kernel]:
    """The kernels of one log, by name."""
    parts = re.split(r"(?m)^\[[A-Z]+\] ", (DATA / name).read_bytes().decode())[1:]
    return {kernel.name: kernel for kernel in parse(part.rstrip("\n") for part in parts).kernels}


CONVOLUTIONS = read_kernels("rtx_1.7.1_convolutions.txt")
KERNELS = read_kernels("rtx_1.7.1_kernels.txt")
FUSED = read_kernels("rtx_1.7.1_fused.txt")
