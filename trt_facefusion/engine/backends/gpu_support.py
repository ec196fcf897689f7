"""What a GPU can really compute in INT8 and FP16, by its compute capability."""

from __future__ import annotations

from dataclasses import dataclass

from trt_facefusion.types import Precision

TENSOR_CORES, INSTRUCTIONS, NONE = "tensor cores", "instructions", "none"
"""How a precision is computed: by tensor cores, by ordinary instructions that beat FP32, or no faster than FP32."""


@dataclass(frozen=True)
class GpuSupport:
    """One row of the table: ``int8`` and ``fp16`` are one of TENSOR_CORES, INSTRUCTIONS and NONE.

    ``last_tensorrt`` is the last version (major, minor) that still builds for it; None where that is the newest.
    """

    architecture: str
    example: str
    fp16: str
    int8: str
    last_tensorrt: tuple[int, int] | None = None
    note: str = ""

    @property
    def best(self) -> Precision:
        """Where the chain INT8 -> FP16 -> FP32 ends if nothing but speed speaks: the cheapest on tensor cores.

        Without tensor cores it is FP16 where that beats FP32. INT8 by instructions alone (DP4A) is left out: TensorRT
        has few such kernels, and the rest of the network gains nothing.
        """
        if self.int8 == TENSOR_CORES:
            return Precision.INT8
        return Precision.FP32 if self.fp16 == NONE else Precision.FP16

    @property
    def reason(self) -> str:
        """Why it ends there."""
        return f"INT8 by {_describe(self.int8)}, FP16 by {_describe(self.fp16)}" + (
            f"; {self.note}" if self.note else ""
        )


def _describe(how: str) -> str:
    return {TENSOR_CORES: "tensor cores", INSTRUCTIONS: "ordinary instructions", NONE: "nothing faster than FP32"}[how]


_T, _I, _N = TENSOR_CORES, INSTRUCTIONS, NONE
_SLOW_INT8 = "its INT8 rate is a small part of its FP8 rate: hold INT8 against FP16 with `trt-ff profile`"

TABLE: dict[tuple[int, int], GpuSupport] = {
    (6, 0): GpuSupport("Pascal", "Tesla P100", _I, _N, (8, 6)),
    (6, 1): GpuSupport("Pascal", "Tesla P4, GeForce GTX 1080", _N, _I, (8, 6)),
    (6, 2): GpuSupport("Pascal", "Jetson TX2", _I, _N, (8, 6)),
    (7, 0): GpuSupport("Volta", "Tesla V100", _T, _I, (10, 4)),
    (7, 2): GpuSupport("Volta", "Jetson AGX Xavier", _T, _T, (8, 6)),
    (7, 5): GpuSupport("Turing", "T4, GeForce RTX 2080", _T, _T),
    (8, 0): GpuSupport("Ampere", "A100, A30", _T, _T),
    (8, 6): GpuSupport("Ampere", "A10G, A10, GeForce RTX 3090", _T, _T),
    (8, 7): GpuSupport("Ampere", "Jetson AGX Orin", _T, _T),
    (8, 8): GpuSupport("Ampere", "Orin-class system", _T, _T),
    (8, 9): GpuSupport("Ada", "L4, L40S, GeForce RTX 4090", _T, _T),
    (9, 0): GpuSupport("Hopper", "H100, H200", _T, _T),
    (10, 0): GpuSupport("Blackwell", "B200, GB200", _T, _T),
    (10, 1): GpuSupport("Blackwell", "Thor (before CUDA 13)", _T, _T),
    (10, 3): GpuSupport("Blackwell", "B300, GB300", _T, _T, note=_SLOW_INT8),
    (11, 0): GpuSupport("Blackwell", "Jetson AGX Thor", _T, _T),
    (12, 0): GpuSupport("Blackwell", "GeForce RTX 5090, RTX PRO 6000", _T, _T),
    (12, 1): GpuSupport("Blackwell", "GB10 (DGX Spark)", _T, _T),
}
"""Compute capability -> what it computes.

Sources: "Hardware and Precision" in NVIDIA's TensorRT support matrices (8.6 for 6.x and 7.x, 10.1 for 7.0 to 9.0, 10.14
for 10.x to 12.x), columns "FP16 Tensor Cores" and "INT8 Tensor Cores"; where those say no, columns "FP16" and "INT8".
``last_tensorrt`` from TensorRT's release notes: 10.0 dropped 6.x, 10.5 dropped 7.0. B300's INT8 rate from the
data sheet of HGX B300.
"""


def find_gpu_support(compute_capability: tuple[int, int]) -> GpuSupport | None:
    """What a GPU of that compute capability computes; None where the table has none.

    A later minor version within a known major one counts as the last known one, as binary compatibility has it.
    """
    if compute_capability in TABLE:
        return TABLE[compute_capability]
    major, minor = compute_capability
    older = [other for other in TABLE if other[0] == major and other[1] < minor]
    return TABLE[max(older)] if older else None
