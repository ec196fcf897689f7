"""One engine of a comparison, and all of them: figures, and how each of them was come by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.timing.summary import PredictedTime
from trt_facefusion.evaluation.profiling.statistics import Latency
from trt_facefusion.lineup.published import Publication

Pictures = NDArray[np.uint8]
"""[N,H,W,3]."""


@dataclass(frozen=True)
class RunTiming:
    """What was measured on this machine, in turns with all others that run here: milliseconds, samples a second."""

    latency: Latency
    fastest_ms: float
    """What other work on the machine disturbs least."""
    throughput_per_s: float
    peak_bytes: int | None
    """By how much a process of its own grew at most, with the library that runs the engine."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "latency_ms": self.latency.as_dict(),
            "fastest_ms": self.fastest_ms,
            "throughput_per_s": self.throughput_per_s,
            "peak_bytes": self.peak_bytes,
        }


@dataclass(frozen=True)
class Entry:
    """One engine that was asked for: what became of it.

    ``precision`` is what was asked for, ``built`` what came of it; None where there is no engine, and ``reason`` says
    why. ``figures`` are those of the metrics against what was handed in, by key. ``timing`` is measured, ``predicted``
    is not. ``remarks`` are what a person should know before comparing.
    """

    backend: str
    version: str
    target: str
    precision: str
    built: str | None = None
    reason: str = ""
    folder: Path | None = None
    weights_bytes: int | None = None
    engine_bytes: int | None = None
    activations_bytes: int | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    faces: int | None = None
    judged_by: Mapping[str, str] = field(default_factory=dict)
    verified_with: str = ""
    int8_share: float | None = None
    int8_kernels: str = "-"
    seconds: float | None = None
    effort: str = ""
    timing: RunTiming | None = None
    predicted: PredictedTime | None = None
    remarks: tuple[str, ...] = ()

    @property
    def basis(self) -> str:
        """How its time was come by: ``measured``, ``predicted`` or ``none``."""
        return "measured" if self.timing is not None else "predicted" if self.predicted is not None else "none"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {key: getattr(self, key) for key in _PLAIN}
        return {
            **plain,
            "folder": None if self.folder is None else str(self.folder),
            "time": self.basis,
            "measured": None if self.timing is None else self.timing.as_dict(),
            "predicted": None if self.predicted is None else asdict(self.predicted),
            "accuracy": {"faces": self.faces, **self.figures, "judged_by": dict(self.judged_by)},
            "remarks": list(self.remarks),
        }


_PLAIN = (
    *("backend", "version", "target", "precision", "built", "reason", "weights_bytes", "engine_bytes"),
    *("activations_bytes", "verified_with", "int8_share", "int8_kernels", "seconds", "effort"),
)


@dataclass(frozen=True)
class LineupGallery:
    """A few faces as every engine paints them: ``pictures`` [N,H,W,3] by title, the reference first."""

    pictures: Mapping[str, Pictures] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineup:
    """A comparison: its entries, what it was measured on, and what others published."""

    model: str
    machine: str
    threads: int | None
    rounds: int
    created: str
    entries: tuple[Entry, ...]
    processor_share: float | None = None
    """Of a processor that this process got while it took times; clearly below 1, the machine was busy with others."""
    published: Sequence[Publication] = ()
    gallery: LineupGallery = field(default_factory=LineupGallery)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; pictures are in the page alone."""
        return {
            "schema": 1,
            "model": self.model,
            "machine": self.machine,
            "threads": self.threads,
            "rounds": self.rounds,
            "created": self.created,
            "processor_share": self.processor_share,
            "engines": [entry.as_dict() for entry in self.entries],
            "published": [publication.as_dict() for publication in self.published],
        }
