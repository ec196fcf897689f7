"""What an engine of a plan takes, as whoever times engines says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from trt_facefusion.quantization.precision import Plan


@dataclass(frozen=True)
class EngineTime:
    """One compiled engine, for one inference of the usual batch.

    Attributes:
        total_ms: milliseconds of all kernels.
        layers: of these what is charged to each layer that multiplies, by node.
        moved_bytes: bytes that its kernels read and write.
        launches: kernels that are launched.
        int8_kernels: kernels that multiply in INT8.
        int8_writing_fp32: how many of them write FP32.
    """

    total_ms: float
    layers: Mapping[str, float]
    moved_bytes: int = 0
    launches: int = 0
    int8_kernels: int = 0
    int8_writing_fp32: int = 0


class PlanTimer(Protocol):
    """Has engines compiled, and times them: by a model of their kernels, or on the GPU.

    Attributes:
        described: what decides a time beside the plan and its graph: backend, GPU, factors; part of a key.
        gpu_title: the GPU in full, as people are told.
        how: ``predicted`` or ``measured``.
    """

    described: str
    gpu_title: str
    how: str

    def compute_key(self, plan: Plan) -> str:
        """Digest of the graph that an engine of ``plan`` would be made of."""

    def time(self, plan: Plan) -> EngineTime:
        """Compile the engine of ``plan``, and time it.

        Raises:
            KernelsUnknownError: the backend does not say which kernels it has.
            BuildError: it refused the plan.
        """
