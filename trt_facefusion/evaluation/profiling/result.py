"""What is known of one engine's speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trt_facefusion.evaluation.profiling.layers import Layer, share_by_precision
from trt_facefusion.evaluation.profiling.measure import SweepPoint
from trt_facefusion.evaluation.profiling.statistics import Latency


@dataclass(frozen=True)
class Split:
    """Medians of the GPU's stages, by events in the stream, in milliseconds."""

    upload_ms: float
    compute_ms: float
    download_ms: float

    @property
    def total_ms(self) -> float:
        """All three."""
        return self.upload_ms + self.compute_ms + self.download_ms


@dataclass(frozen=True)
class Profile:
    """Figures of one engine.

    Attributes:
        label: what was profiled.
        precision: of the engine; None for a plain ONNX file.
        stand_in: it was not the engine, but its typed ONNX on the CPU.
        device: where it ran.
        inputs: what it was fed with.
        batch: samples of one call.
        times_ms: the latency of every call that counts, in order.
        in_flight: inferences at once, for ``throughput_per_s`` (samples, not calls).
        host_overhead_us: median time of a call outside of the device's work (on a CPU: outside of the graph),
            None if unknown.
        memory_bytes: device memory of buffers, scratch and weights (on a CPU: growth of the process), None if unknown.
        memory: the parts, and what the driver saw.
        split: None on a CPU.
        layers: slowest first; empty where they could not be measured.
        batches, flights: the sweeps.
    """

    label: str
    precision: str | None
    stand_in: bool
    device: str
    inputs: str
    batch: int
    times_ms: tuple[float, ...]
    in_flight: int
    throughput_per_s: float
    host_overhead_us: float | None
    memory_bytes: int | None
    memory: Mapping[str, int | None]
    split: Split | None
    layers: tuple[Layer, ...]
    batches: tuple[SweepPoint, ...]
    flights: tuple[SweepPoint, ...]

    @property
    def latency(self) -> Latency:
        """Percentiles of the latency."""
        return Latency.of(self.times_ms)

    def as_dict(self) -> dict[str, Any]:
        """The profile as ``--json`` shows it."""
        return {
            "latency_ms": self.latency.as_dict(),
            "throughput_per_s": self.throughput_per_s,
            "host_overhead_us": self.host_overhead_us,
            "memory_bytes": self.memory_bytes,
            "layers": [layer.as_dict() for layer in self.layers],
            "engine": self.label,
            "precision": self.precision,
            "stand_in": self.stand_in,
            "device": self.device,
            "inputs": self.inputs,
            "batch": self.batch,
            "rounds": len(self.times_ms),
            "in_flight": self.in_flight,
            "split_ms": None if self.split is None else _name_stages(self.split),
            "memory": dict(self.memory),
            "share_by_precision": share_by_precision(self.layers),
            "batch_sweep": [_describe_point("batch", point) for point in self.batches],
            "in_flight_sweep": [_describe_point("in_flight", point) for point in self.flights],
        }


def _name_stages(split: Split) -> dict[str, float]:
    return {name.removesuffix("_ms"): time_ms for name, time_ms in asdict(split).items()}


def _describe_point(axis: str, point: SweepPoint) -> dict[str, Any]:
    return {axis: point.at, "latency_ms": point.latency_ms, "throughput_per_s": point.throughput_per_s}
