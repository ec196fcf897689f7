"""A calibration on disk: the table as TensorRT reads it, and beside it the JSON with all that it was made from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trt_facefusion.errors import BadInputError, CalibrationCacheError
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.calibration.threshold_choice import ThresholdChoice
from trt_facefusion.quantization.calibration.thresholds import THRESHOLD_RULES, parse_rule
from trt_facefusion.storage.documents import LATER, DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.files import write_atomic

SCHEMA = 2
"""Rises when the JSON changes, and when a rule's arithmetic does: a table must follow from its histograms."""

_LARGEST_EXPONENT = 127
_LARGEST_COUNT = 2**50
_MOST_TENSORS = 20_000

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Calibration:
    """Histograms of one model over one set of faces, and the rule that turns them into a table.

    ``settings`` are all choices that the histograms depend on (plain JSON values). The rule is not one of them: another
    rule needs no other pass. ``pinned`` holds ranges that are known and not measured, such as those of image inputs.
    ``exponents`` and ``offsets``: what channels go through before they are quantised, tensor -> log2 of the divisor of
    each channel, and what is subtracted then. ``choice`` says how the rule was found, and which tensors have another
    one; its rule is then ``rule``.
    """

    model: str
    model_digest: str
    faces_digest: str
    histograms: Mapping[str, Histogram]
    rule: str = "entropy"
    pinned: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    exponents: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    offsets: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    choice: ThresholdChoice | None = None

    def __post_init__(self) -> None:
        parse_rule(self.rule)

    @cached_property
    def table(self) -> CalibrationTable:
        """amax of every tensor: pinned, or by its rule."""
        names = dict.fromkeys([*self.histograms, *self.pinned])
        return CalibrationTable({name: self._compute_amax(name) for name in names})

    def _compute_amax(self, name: str) -> float:
        return self.pinned[name] if name in self.pinned else parse_rule(self.rule_of(name))(self.histograms[name])

    def rule_of(self, tensor: str) -> str:
        """The rule that a tensor's range follows."""
        own = self.choice.tensors.get(tensor) if self.choice is not None else None
        return own.rule if own is not None else self.rule

    def with_rule(self, rule: str) -> Calibration:
        """The same histograms read by another rule."""
        return replace(self, rule=rule, choice=None)

    def with_choice(self, choice: ThresholdChoice) -> Calibration:
        """The same histograms read as ``choice`` says."""
        return replace(self, rule=choice.rule, choice=choice)


@dataclass(frozen=True)
class StaleCalibration:
    """Why there is no calibration that fits; the remedy is to calibrate."""

    reason: str


def cache_path(folder: Path, model: str, model_digest: str) -> Path:
    """Where the table of a model stands; the JSON stands beside it."""
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', model)}-{model_digest[:8]}.cache"


def save(calibration: Calibration, folder: Path) -> Path:
    """Write the table and its JSON under their name in ``folder``; the path of the table.

    Raises:
        StoreError: the folder cannot be written to.
    """
    return save_as(calibration, cache_path(folder, calibration.model, calibration.model_digest))


def save_as(calibration: Calibration, path: Path, option: str = "--cache") -> Path:
    """Write the table to ``path``, which ends with ``.cache``, and its JSON beside it.

    Whenever this stops, the two files are either from the same calibration or known not to be: the JSON names the
    digest of the table's text.

    Raises:
        StoreError: the folder cannot be written to.
    """
    text = calibration.table.dumps()
    description = json.dumps(_describe(calibration, text), indent=1, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8"), option)
    write_atomic(_locate_json(path), description.encode("utf-8"), option)
    return path


def load(
    path: Path, *, model_digest: str, faces_digest: str, settings: Mapping[str, Setting]
) -> Calibration | StaleCalibration:
    """The calibration at ``path``, or why it is not to be used: for callers that can calibrate again."""
    if not path.exists() and not _locate_json(path).exists():
        return StaleCalibration("this model has not been calibrated yet")
    try:
        calibration = _read_calibration(path)
    except CalibrationCacheError as error:
        return StaleCalibration(error.message)
    if calibration.model_digest != model_digest:
        return StaleCalibration(f"{path} was made for another model")
    if calibration.faces_digest != faces_digest:
        return StaleCalibration("the calibration faces have changed")
    changed = sorted({key for key, _ in settings.items() ^ calibration.settings.items()})
    if changed:
        return StaleCalibration(f"the calibration settings have changed ({', '.join(changed)})")
    return calibration


def load_named(path: Path, *, model_digest: str) -> CalibrationTable:
    """The table at ``path``, which the user asked for by name.

    A table without a JSON beside it, such as one that TensorRT wrote, is taken as it is.

    Raises:
        CalibrationCacheError: the table cannot be read or is damaged, or its JSON says that it was made for another
            model or does not belong to it.
    """
    table = CalibrationTable.read(path)
    if not _locate_json(path).exists():
        return table
    calibration = _read_calibration(path)
    if calibration.model_digest != model_digest:
        raise CalibrationCacheError(
            f"{path} was made for another model ({calibration.model}, sha256 {calibration.model_digest[:8]}...), "
            f"not for this one ({model_digest[:8]}...)",
            "leave the option out to calibrate this model, or name the model that the cache was made for",
        )
    return table


def load_description(path: Path) -> Calibration | None:
    """What the table at ``path`` was made from; None where no JSON stands beside it, as with TensorRT's own caches.

    Raises:
        CalibrationCacheError: either file is damaged, or they do not belong together.
    """
    return _read_calibration(path) if _locate_json(path).exists() else None


def _locate_json(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".cache") + ".json")


def _describe(calibration: Calibration, text: str) -> dict[str, Any]:
    tensors = {
        name: {
            "amax": {rule: threshold(histogram) for rule, threshold in THRESHOLD_RULES.items()},
            "histogram": histogram.as_dict(),
        }
        for name, histogram in calibration.histograms.items()
    }
    return {
        "schema": SCHEMA,
        "model": calibration.model,
        "model_digest": calibration.model_digest,
        "faces_digest": calibration.faces_digest,
        "table_sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        "rule": calibration.rule,
        "choice": None if calibration.choice is None else calibration.choice.as_dict(),
        "settings": dict(sorted(calibration.settings.items())),
        "pinned": dict(calibration.pinned),
        "exponents": {name: list(values) for name, values in calibration.exponents.items()},
        "offsets": {name: list(values) for name, values in calibration.offsets.items()},
        "tensors": tensors,
    }


def _read_calibration(path: Path) -> Calibration:
    """The calibration whose table is ``path``.

    Raises:
        CalibrationCacheError: either file is missing or damaged, or they do not belong together.
    """
    CalibrationTable.read(path)
    calibration, digest = _read_json(_locate_json(path))
    if digest != hashlib.sha256(path.read_bytes()).hexdigest():
        document = _locate_json(path).name
        raise CalibrationCacheError(
            f"{path} and {document} do not belong together: the table was edited, or writing was cut off",
            f"calibrate again, or delete {document} to use the table as it is",
        )
    return calibration


def _read_json(path: Path) -> tuple[Calibration, str]:
    """The calibration that the JSON ``path`` describes, and the SHA-256 of its table's text."""
    remedy = f"delete {path}, or calibrate again"
    try:
        document = parse_json(read_bytes(path))
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema == SCHEMA and schema is not True:
            stored = decode(_Stored, {key: entry for key, entry in document.items() if key != "schema"}, "cache")
            return stored.calibration(), stored.table_sha256
    except OSError as error:
        raise CalibrationCacheError(f"cannot read {path}: {error.strerror}", remedy) from error
    except (DocumentError, BadInputError) as error:
        raise CalibrationCacheError(f"{path} is damaged: {error}", remedy) from error
    raise CalibrationCacheError(f"{path} has schema {schema!r:.40}; this version reads schema {SCHEMA}", remedy)


@dataclass(frozen=True)
class _StoredHistogram:
    """See `Histogram.as_dict`."""

    exponent: int
    amax: float
    non_finite: int
    counts: str


@dataclass(frozen=True)
class _StoredTensor:
    """One tensor of the JSON; ``amax`` by every rule is written for people."""

    histogram: _StoredHistogram
    amax: Any = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class _Stored:
    """The JSON as it stands in the file, without its schema."""

    model: str
    model_digest: str
    faces_digest: str
    table_sha256: str
    rule: str
    choice: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    pinned: Mapping[str, float]
    exponents: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, _StoredTensor]
    offsets: Mapping[str, tuple[float, ...]] = field(default_factory=dict, metadata=LATER)

    def calibration(self) -> Calibration:
        """What the JSON describes. Raises DocumentError or BadInputError where its parts contradict one another."""
        if len(self.tensors) > _MOST_TENSORS:  # each takes 16 KiB, also one that was written in 100 bytes
            raise DocumentError(f"cache.tensors has {len(self.tensors)} entries, more than any network")
        for name, setting in self.settings.items():
            if not isinstance(setting, str | int | float | None):
                raise DocumentError(f"cache.settings.{name} is no plain value")
        for name, amax in self.pinned.items():
            if amax < 0:
                raise DocumentError(f"cache.pinned.{name} is below 0")
        for name, exponents in self.exponents.items():
            if any(abs(exponent) > _LARGEST_EXPONENT for exponent in exponents):
                raise DocumentError(f"cache.exponents.{name} is no power of two that a channel can be divided by")
        return Calibration(
            model=self.model,
            model_digest=self.model_digest,
            faces_digest=self.faces_digest,
            histograms={name: _restore_histogram(name, entry.histogram) for name, entry in self.tensors.items()},
            rule=self.rule,
            pinned=self.pinned,
            settings=self.settings,
            exponents=self.exponents,
            offsets=self.offsets,
            choice=None if self.choice is None else ThresholdChoice.from_dict(self.choice),
        )


def _restore_histogram(name: str, state: _StoredHistogram) -> Histogram:
    where = f"cache.tensors.{name}.histogram"
    try:
        histogram = Histogram.from_dict(asdict(state))
    except (ValueError, OverflowError) as error:
        raise DocumentError(f"{where}: {error}") from error
    if int(histogram.counts.max()) >= _LARGEST_COUNT or state.non_finite < 0:
        raise DocumentError(f"{where} counts more values than anybody could, or fewer than none")
    return histogram
