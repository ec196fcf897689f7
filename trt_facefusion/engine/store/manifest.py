"""The manifest of an engine: everything that went in, and everything that is known of what came out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trt_facefusion.engine.backends.base import Kernel, ShapeRange
from trt_facefusion.engine.backends.pins import Pins
from trt_facefusion.engine.timing.summary import PredictedTime
from trt_facefusion.errors import StoreError
from trt_facefusion.storage.documents import LATER, DocumentError, decode, parse_json

SCHEMA = 2
_NAME_LIMIT = 64
JsonValue = Any
"""What JSON can hold. Numbers that are not finite are written as null."""

_REBUILD = "Build the engine again with --force; an engine of another version of this tool cannot be read."


@dataclass(frozen=True)
class StoredFile:
    """A file of an engine folder."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class EngineInputs:
    """Digests (SHA-256, hex) of what the engine was made from; None where the precision needs no such thing."""

    model_sha256: str
    plan_sha256: str
    faces_sha256: str | None = None
    evaluation_faces_sha256: str | None = None
    calibration_sha256: str | None = None
    settings: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Int8Kernels:
    """Planned INT8 nodes, how many really became INT8 kernels, and the names of the others.

    ``known`` is False where the backend's log could not be read.
    """

    planned: int
    real: int
    missing: tuple[str, ...] = ()
    known: bool = True


@dataclass(frozen=True)
class GateResult:
    """Whether the accuracy gate was passed; if not, why."""

    passed: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fallback:
    """One step down the fall-back chain: precisions, and why."""

    from_: str
    to: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """The prepared FP32 graph's pictures against those of what was handed in (`evaluation.accuracy.agreement`)."""

    ssim_drop: float
    max_difference: float


@dataclass(frozen=True)
class StoredAccuracy:
    """The ``accuracy`` of a manifest as people are shown it; None for what was not measured.

    ``reference`` names what the pictures were held against, ``batch`` how many faces were run at a time. ``figures``
    are those of the metrics, by key: which there are is known to those who measured. ``judged_by`` says by metric what
    measured.
    """

    faces: int | None = None
    reference: str | None = None
    batch: int | None = None
    prepared: Prepared | None = None
    judged_by: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float | None] = field(default_factory=dict)


SIMULATED = "simulated"
"""What ``accuracy`` says of the faces that a simulator painted, and of how near the stand-in came to it."""
NOT_FIGURES = frozenset({"faces", "reference", "batch", "prepared", "worst_faces", "judged_by", SIMULATED})
"""What else ``accuracy`` holds: no metric may call a figure so."""


@dataclass(frozen=True)
class _Figures:
    accuracy: Mapping[str, float | None]


def read_accuracy(raw: Mapping[str, JsonValue], where: str = "manifest") -> StoredAccuracy:
    """The ``accuracy`` of the manifest ``where``. Raises DocumentError where a value in it has another type."""
    figures = {key: entry for key, entry in raw.items() if key not in NOT_FIGURES}
    rest = {key: entry for key, entry in raw.items() if key in NOT_FIGURES}
    accuracy = decode(StoredAccuracy, rest, f"{where}.accuracy", lenient=True)
    return dataclasses.replace(accuracy, figures=decode(_Figures, {"accuracy": figures}, where).accuracy)


@dataclass(frozen=True)
class CalibrationRecord:
    """What a manifest says of the calibration: its rule, what was corrected, and SSIM drops on calibration faces."""

    rule: str = ""
    equalised: bool = False
    folded: int = 0
    shifted: int = 0
    corrections: tuple[str, ...] = ()
    ssim_drop: Mapping[str, float | None] = field(default_factory=dict)
    corrections_ssim_drop: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What is known of one stored engine.

    ``pins`` and ``shapes`` are what the machine that loads it must have and what it takes; ``command`` holds the
    arguments of `trt-ff build` that made it, precision, target and backend aside; ``files`` is filled in by the store.
    ``predicted`` is what the model of `engine.timing` said of its speed when it was built: no measurement. It is None
    where the model knows no such GPU or no kernels, and for engines of earlier versions.
    """

    model: str
    precision: str
    requested_precision: str
    backend: str
    backend_version: str
    target: str
    shapes: Mapping[str, ShapeRange]
    inputs: EngineInputs
    build_key: str
    tool_version: str
    created: str
    """UTC, ISO 8601."""
    seconds: float
    engine_bytes: int
    weights_bytes: int | None
    macs_share: Mapping[str, float]
    int8_kernels: Int8Kernels
    accuracy: Mapping[str, JsonValue]
    gate: GateResult
    verified_with: str
    kernels: tuple[Kernel, ...] = ()
    fallback: tuple[Fallback, ...] = ()
    warnings: tuple[str, ...] = ()
    activations_bytes: int | None = None
    predicted: PredictedTime | None = field(default=None, metadata=LATER)
    pins: Pins = field(default_factory=Pins)
    command: tuple[str, ...] = ()
    files: Mapping[str, StoredFile] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest as JSON, keys in the order of the fields."""
        return json.dumps({"schema": SCHEMA, **_encode(self)}, indent=2, allow_nan=False) + "\n"

    def rebuild_command(self, target: str | None = None, backend: str | None = None) -> str:
        """The command line that builds this engine again, for the same target and backend unless others are named.

        The precision is the one that was asked for: another machine may not need the fall-back.
        """
        target, backend = target or self.target, backend or self.backend
        again = (f"--{self.requested_precision}", "--target", target, "--backend", backend, "--force")
        return shlex.join(("trt-ff", "build", *self.command, *again))

    @property
    def usual_batch(self) -> int:
        """Samples of one inference in the usual shapes; 1 where no input has a batch axis."""
        shapes = list(self.shapes.values())
        varying = [usual[0] for low, usual, high in shapes if low[:1] != high[:1]]
        usual = varying or [usual[0] for _, usual, _ in shapes if usual]
        return usual[0] if usual else 1

    @property
    def judged(self) -> StoredAccuracy:
        """The figures of ``accuracy``, and what they were made by."""
        return read_accuracy(self.accuracy)

    @property
    def calibration(self) -> CalibrationRecord | None:
        """What the engine was calibrated by; None where its precision needs no calibration."""
        record = self.inputs.settings.get("calibration")
        if record is None or record == {}:
            return None
        return decode(CalibrationRecord, record, "manifest.inputs.settings.calibration", lenient=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read a manifest.

        Raises:
            StoreError: not JSON, of another schema version, or with a key missing, unknown or of the wrong type.
        """
        try:
            raw = parse_json(text)
            if not isinstance(raw, dict) or raw.get("schema") != SCHEMA or isinstance(raw["schema"], bool):
                schema = raw.get("schema") if isinstance(raw, dict) else None
                raise StoreError(f"The manifest has the schema {schema!r:.40}, this version reads {SCHEMA}.", _REBUILD)
            manifest = decode(cls, {key: entry for key, entry in raw.items() if key != "schema"}, "manifest")
            read_accuracy(manifest.accuracy)  # refused here rather than where it is shown
            manifest.calibration  # noqa: B018
        except DocumentError as error:
            raise StoreError(f"The manifest is damaged: {error}.", _REBUILD) from error
        return manifest


def make_safe_name(text: str) -> str:
    """``text`` as one part of a path: letters, digits, ``._-``; other names get a digest, so that none meet."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".-")
    if safe == text and 0 < len(safe) <= _NAME_LIMIT:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe[:_NAME_LIMIT] or 'model'}-{digest}"


def build_key(parts: Mapping[str, JsonValue]) -> str:
    """Digest (SHA-256, hex) of everything that decides what an engine is; the same parts give the same key."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _encode(field_value: Any) -> Any:
    if dataclasses.is_dataclass(field_value):
        return {f.name.rstrip("_"): _encode(getattr(field_value, f.name)) for f in dataclasses.fields(field_value)}
    if isinstance(field_value, Mapping):
        return {str(key): _encode(element) for key, element in field_value.items()}
    if isinstance(field_value, list | tuple):
        return [_encode(element) for element in field_value]
    if isinstance(field_value, float) and not math.isfinite(field_value):
        return None
    return field_value
