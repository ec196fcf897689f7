"""What `run.json` holds: the figures of a build as its report shows them.

Fields that a later version writes are passed over, and those with a default may be missing: older reports stay
readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.store.manifest import CalibrationRecord, Fallback, StoredAccuracy, read_accuracy
from trt_facefusion.engine.timing.summary import PredictedTime
from trt_facefusion.storage.documents import DocumentError, decode
from trt_facefusion.types import Precision


@dataclass(frozen=True)
class FaceCounts:
    """How many faces were calibrated on and judged."""

    calibration: int
    verification: int


@dataclass(frozen=True)
class Kernels:
    """Planned INT8 nodes, those that became INT8 kernels, and the names of the others."""

    planned: int
    real: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordedSettings:
    """Of the settings in a manifest, what the calibration was."""

    calibration: CalibrationRecord | None = None


@dataclass(frozen=True)
class EngineOrigin:
    """What the engine was made from."""

    model_sha256: str
    settings: RecordedSettings = field(default_factory=RecordedSettings)


@dataclass(frozen=True)
class ShownManifest:
    """Of an engine's manifest, what the report shows."""

    precision: str
    accuracy: Mapping[str, Any]
    int8_kernels: Kernels
    macs_share: Mapping[str, float]
    engine_bytes: int
    inputs: EngineOrigin
    verified_with: str
    weights_bytes: int | None = None
    fallback: tuple[Fallback, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def judged(self) -> StoredAccuracy:
        """The figures of ``accuracy``."""
        return read_accuracy(self.accuracy)


@dataclass(frozen=True)
class PlanRow:
    """One node of the plan."""

    name: str
    precision: str
    op: str = ""
    reason: str = ""
    macs: int = 0


@dataclass(frozen=True)
class FrontPoint:
    """One plan of the front; ``predicted_ms`` is the time of its engine, where it was predicted."""

    int8_macs_share: float
    ssim_drop: float
    ssim_drop_worst: float | None = None
    chosen: bool = False
    raised: tuple[str, ...] = ()
    weights_bytes: int | None = None
    predicted_ms: float | None = None


@dataclass(frozen=True)
class SearchFacts:
    """What the plan search measured, and what that cost; ``objective`` is what it made least of."""

    points: tuple[FrontPoint, ...]
    objective: str = "macs"
    passes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class EngineFacts:
    """One engine that was asked for, and what came of it."""

    requested: str
    folder: str
    manifest: ShownManifest
    up_to_date: bool = False
    plan: tuple[PlanRow, ...] = ()
    search: SearchFacts | None = None


@dataclass(frozen=True)
class TensorFacts:
    """A tensor that INT8 layers read: its histogram over 0..``limit``, and what its range costs."""

    name: str
    readers: tuple[str, ...]
    amax: float
    limit: float
    counts: tuple[int, ...]
    sqnr_db: float
    clipped: float


@dataclass(frozen=True)
class GalleryFacts:
    """Which faces are shown, how many of them are the worst, and the SSIM drop of each by precision."""

    faces: tuple[str, ...]
    worst: int
    ssim_drop: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class PredictedFacts:
    """Predicted times of one inference on a GPU, by precision, milliseconds; ``int8_does_not_pay`` says why."""

    title: str
    times: Mapping[str, PredictedTime]
    int8_does_not_pay: str | None = None


@dataclass(frozen=True)
class RunFacts:
    """One build.

    ``limits`` are those on the figures of each precision, by name (None where none was set); ``swaps`` says whether the
    network takes an identity.
    """

    model: str
    created: str
    seconds: float
    tool_version: str
    backend: str
    target: str
    reason: str
    faces: FaceCounts
    engines: tuple[EngineFacts, ...]
    gallery: GalleryFacts
    skipped: Mapping[str, int] = field(default_factory=dict)
    tensors: tuple[TensorFacts, ...] = ()
    limits: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    predicted: PredictedFacts | None = None
    swaps: bool = True


def read_facts(raw: Any) -> RunFacts:
    """The facts in ``raw``, as JSON gave it.

    Raises:
        DocumentError: a field is missing, of another type, or contradicts another.
    """
    facts = decode(RunFacts, raw, "run", lenient=True)
    if not facts.engines:
        raise DocumentError("run.engines is empty")
    precisions = {precision.value for precision in Precision}
    for number, engine in enumerate(facts.engines):
        where = f"run.engines[{number}]"
        for name in (engine.requested, engine.manifest.precision, *(row.precision for row in engine.plan)):
            if name not in precisions:
                raise DocumentError(f"{where} has the precision {name!r:.40}, which does not exist")
        read_accuracy(engine.manifest.accuracy, f"{where}.manifest")
        if any(row.macs < 0 for row in engine.plan):
            raise DocumentError(f"{where}.plan has MACs below 0")
    for number, tensor in enumerate(facts.tensors):
        if not tensor.limit > 0 or not tensor.counts or min(tensor.counts) < 0:
            raise DocumentError(f"run.tensors[{number}] is no histogram")
    if not 0 <= facts.gallery.worst <= len(facts.gallery.faces):
        raise DocumentError(f"run.gallery.worst is {facts.gallery.worst} of {len(facts.gallery.faces)} faces")
    return facts


def check_pictures(facts: RunFacts, pictures: Mapping[str, NDArray[Any]]) -> None:
    """Raise `DocumentError` unless ``pictures`` are those of the gallery: [N,H,W,3] uint8 for each name."""
    count = len(facts.gallery.faces)
    if not count:
        return
    for name in ("target", "source", "reference"):
        if name not in pictures:
            raise DocumentError(f"there are no pictures called {name}")
    for name, shown in pictures.items():
        sound = shown.dtype == np.uint8 and shown.ndim == 4 and shown.size > 0
        if not sound or shown.shape[0] != count or shown.shape[3] != 3:
            raise DocumentError(f"{name} is {shown.dtype} {shown.shape}, not {count} pictures")
        if name in facts.gallery.ssim_drop and shown.shape != pictures["reference"].shape:
            raise DocumentError(f"{name} has another size than reference")
    for name in (precision.value for precision in Precision):
        if name in pictures and len(facts.gallery.ssim_drop.get(name, ())) != count:
            raise DocumentError(f"run.gallery.ssim_drop.{name} has no figure for each of {count} faces")
