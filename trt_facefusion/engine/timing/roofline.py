"""Kernels -> predicted time on a GPU. A model, never a measurement.

Each kernel takes its launch and the longer of two times (the roofline of Williams, Waterman and Patterson, 2009): to
move its bytes at the memory's bandwidth, and to multiply at the dense rate of its type. Kernels run one after another.
The model leaves out caches, how well a kernel fills the GPU, scratch memory, and streams beside one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trt_facefusion.engine.backends.base import Kernel
from trt_facefusion.engine.timing.factors import AT_THE_ROOF, Factors
from trt_facefusion.engine.timing.gpus import GpuModel
from trt_facefusion.engine.timing.work import NOTHING, KernelWork, measure_work

MEMORY, ARITHMETIC, LAUNCH = "memory", "arithmetic", "launch"
BOUNDS = (MEMORY, ARITHMETIC, LAUNCH)
"""What a kernel's time is made of most: moving its bytes, multiplying, or being launched at all."""


@dataclass(frozen=True)
class KernelPrediction:
    """One kernel's predicted time on one GPU, in milliseconds.

    ``memory_ms``, ``arithmetic_ms`` and ``launch_ms`` are what each would take alone; ``time_ms`` is the launch and the
    longer of the other two. ``bound`` is one of `BOUNDS`.
    """

    kernel: Kernel
    work: KernelWork
    memory_ms: float
    arithmetic_ms: float
    launch_ms: float

    @property
    def time_ms(self) -> float:
        """The launch, and the longer of moving and multiplying."""
        return self.launch_ms + max(self.memory_ms, self.arithmetic_ms)

    @property
    def bound(self) -> str:
        """What takes longest."""
        times = {MEMORY: self.memory_ms, ARITHMETIC: self.arithmetic_ms, LAUNCH: self.launch_ms}
        return max(reversed(BOUNDS), key=times.__getitem__)

    def at(self, factors: Factors) -> KernelPrediction:
        """The same kernel where only these shares of what its prediction reckons with are reached."""
        return replace(
            self,
            memory_ms=self.memory_ms / factors.memory,
            arithmetic_ms=self.arithmetic_ms / factors.of_rate(self.work.arithmetic),
            launch_ms=self.launch_ms / factors.launch,
        )

    def as_dict(self) -> dict[str, Any]:
        """The prediction as ``--json`` shows it."""
        return {
            "name": self.kernel.name,
            "type": self.kernel.type,
            "kind": self.work.kind,
            "nodes": list(self.kernel.nodes),
            "dtypes": self.kernel.dtypes,
            "time_ms": self.time_ms,
            "bound": self.bound,
            "bytes": self.work.moved_bytes,
            "macs": self.work.macs,
            "arithmetic": self.work.arithmetic,
        }


@dataclass(frozen=True)
class EnginePrediction:
    """All kernels of an engine, in their order, on one GPU. ``batch`` is what dynamic axes counted as."""

    gpu: GpuModel
    batch: int
    kernels: tuple[KernelPrediction, ...]
    factors: Factors = field(default=AT_THE_ROOF)

    @property
    def total_ms(self) -> float:
        """The time of one inference, all kernels one after another, milliseconds."""
        return sum(kernel.time_ms for kernel in self.kernels)

    @property
    def moved_bytes(self) -> int:
        """Bytes that all kernels read and write, constants included."""
        return sum(kernel.work.moved_bytes for kernel in self.kernels)

    @property
    def launches(self) -> int:
        """Kernels that are launched."""
        return sum(kernel.work.kind != NOTHING for kernel in self.kernels)

    def sum_by_bound(self) -> dict[str, float]:
        """Milliseconds by what the kernels are bound by: all of `BOUNDS`, in their order."""
        return {bound: sum(k.time_ms for k in self.kernels if k.bound == bound) for bound in BOUNDS}

    def sum_by_kind(self) -> dict[str, float]:
        """Milliseconds by kind of kernel (`work.KINDS`), the longest first."""
        times: dict[str, float] = {}
        for kernel in self.kernels:
            if kernel.work.kind == NOTHING:
                continue
            times[kernel.work.kind] = times.get(kernel.work.kind, 0.0) + kernel.time_ms
        return dict(sorted(times.items(), key=lambda item: -item[1]))

    def sum_macs(self) -> dict[str, int]:
        """Multiplications by the type they are done in, the most first."""
        macs: dict[str, int] = {}
        for kernel in self.kernels:
            if kernel.work.macs:
                macs[kernel.work.arithmetic] = macs.get(kernel.work.arithmetic, 0) + kernel.work.macs
        return dict(sorted(macs.items(), key=lambda item: -item[1]))

    def list_costliest(self, count: int) -> tuple[KernelPrediction, ...]:
        """The ``count`` kernels that take longest, the longest first."""
        return tuple(sorted(self.kernels, key=lambda kernel: -kernel.time_ms)[:count])


def predict_kernel(kernel: Kernel, gpu: GpuModel, batch: int = 1, factors: Factors = AT_THE_ROOF) -> KernelPrediction:
    """The predicted time of one kernel on ``gpu``; dynamic axes count as ``batch``."""
    work = measure_work(kernel, batch)
    if work.kind == NOTHING:
        return KernelPrediction(kernel, work, 0.0, 0.0, 0.0)
    at_the_roof = KernelPrediction(
        kernel,
        work,
        memory_ms=1e3 * work.moved_bytes / (1e9 * gpu.bandwidth_gb_s),
        arithmetic_ms=1e3 * 2 * work.macs / (1e12 * gpu.tera_ops[work.arithmetic]) if work.macs else 0.0,
        launch_ms=1e-3 * gpu.launch_us,
    )
    return at_the_roof.at(factors)


def predict_engine(
    kernels: Iterable[Kernel], gpu: GpuModel, batch: int = 1, factors: Factors = AT_THE_ROOF
) -> EnginePrediction:
    """The predicted time of an engine of these kernels on ``gpu``; dynamic axes count as ``batch``."""
    return EnginePrediction(gpu, batch, tuple(predict_kernel(k, gpu, batch, factors) for k in kernels), factors)


def share(times: Mapping[str, float]) -> dict[str, float]:
    """Times as shares of their sum."""
    total = sum(times.values()) or 1.0
    return {name: time / total for name, time in times.items()}
