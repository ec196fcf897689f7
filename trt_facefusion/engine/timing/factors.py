"""How much of its published rates a GPU reaches: factors that were fitted from measured layers, kept for each GPU.

A factor of 1 is the figure of the table, 0.5 half as good: half the bandwidth, half the rate, a launch that takes twice
as long. Without a fit all are 1, and a prediction is the roof: what nothing undercuts by much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trt_facefusion.engine.timing.gpus import RATES, GpuModel
from trt_facefusion.errors import StoreError
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.files import make_store_error, write_atomic

SCHEMA = 1
LOWEST, HIGHEST = 0.02, 20.0
"""A factor outside of these is none: the wrong GPU was measured, or the wrong thing."""
_REMEDY = "Remove the file, or fit again on that GPU: trt-ff profile ENGINE --fit"


@dataclass(frozen=True)
class Factors:
    """Shares of the published figures: of bandwidth, of each type's rate (`gpus.RATES`), of launches in a second.

    A type that ``arithmetic`` lacks has 1.
    """

    memory: float = 1.0
    arithmetic: Mapping[str, float] = field(default_factory=dict)
    launch: float = 1.0

    @property
    def by_name(self) -> dict[str, float]:
        """All of them, as people call them."""
        return {"bandwidth": self.memory, "launches": self.launch, **self.arithmetic}

    def of_rate(self, rate: str) -> float:
        """The factor of a type of arithmetic."""
        return self.arithmetic.get(rate, 1.0)


AT_THE_ROOF = Factors()
"""No fit: the published figures as they are."""


@dataclass(frozen=True)
class FittedFactors:
    """Factors, and what they were fitted from.

    Attributes:
        gpu: name of the row of the table that they belong to.
        device: the GPU as its driver calls it.
        library: what ran the engine, with its version.
        factors: the factors.
        layers: how many measured layers they were fitted to.
        deviation_before, deviation_after: median over these layers of |predicted - measured| / measured.
        total_before, total_after: predicted time of all layers over the measured one.
        created: UTC, ISO 8601.
    """

    gpu: str
    device: str
    library: str
    factors: Factors
    layers: int
    deviation_before: float
    deviation_after: float
    total_before: float
    total_after: float
    created: str

    def to_json(self) -> str:
        """The document that is kept."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> FittedFactors:
        """Read a document. Raises DocumentError where it is not one, or holds a factor that is none."""
        raw = parse_json(text)
        if not isinstance(raw, dict) or raw.pop("schema", None) != SCHEMA:
            raise DocumentError(f"it has not the schema {SCHEMA}")
        fitted = decode(cls, raw, "factors")
        factors = fitted.factors
        named = {"memory": factors.memory, "launch": factors.launch, **factors.arithmetic}
        for name, factor in named.items():
            if not LOWEST <= factor <= HIGHEST:
                raise DocumentError(f"factors.{name} is {factor:g}, not between {LOWEST:g} and {HIGHEST:g}")
        unknown = set(factors.arithmetic) - set(RATES)
        if unknown:
            raise DocumentError(f"factors.arithmetic has {min(unknown)!r:.40}, which is no type of arithmetic")
        return fitted


def name_file(folder: Path, gpu: GpuModel) -> Path:
    """Where the factors of ``gpu`` are kept, beside the timing caches of builds."""
    return folder / f"{gpu.name}-{gpu.target}.factors.json"


def save_factors(folder: Path, gpu: GpuModel, fitted: FittedFactors) -> Path:
    """Keep the factors of a GPU in place of earlier ones. Raises StoreError."""
    path = name_file(folder, gpu)
    write_atomic(path, fitted.to_json().encode(), "--cache")
    return path


def load_factors(folder: Path, gpu: GpuModel) -> FittedFactors | None:
    """The factors that were fitted on ``gpu``; None where none were.

    Raises:
        StoreError: the file is damaged, or cannot be read.
    """
    path = name_file(folder, gpu)
    try:
        fitted = FittedFactors.from_json(read_bytes(path))
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise StoreError(f"{path}: {error}.", _REMEDY) from error
    except OSError as error:
        raise make_store_error(error, path, "read", "--cache") from error
    if fitted.gpu != gpu.name:
        raise StoreError(f"{path}: it holds the factors of {fitted.gpu!r:.40}.", _REMEDY)
    return fitted
