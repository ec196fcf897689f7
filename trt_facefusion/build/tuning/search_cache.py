"""What plan searches measured, kept beside the calibration: the same search is not made twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.errors import StoreError
from trt_facefusion.evaluation.accuracy.registry import list_limited_figures
from trt_facefusion.quantization.calibration.cache import cache_path
from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.quantization.precision.search import Figures
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.files import write_atomic

SCHEMA = 1
SUFFIX = ".search.json"


def locate_searches(inputs: BuildInputs) -> Path:
    """Where the plan searches of a model keep what they have measured."""
    table = cache_path(inputs.settings.cache, inputs.settings.source.name, inputs.view.digest)
    return table.with_name(table.name.removesuffix(".cache") + SUFFIX)


def read_section(inputs: BuildInputs, path: Path, section: str, key: str) -> dict[str, Any] | None:
    """A section of such a file as it stands there; None where it is missing, has another key, or is not wanted."""
    raw = {} if inputs.settings.recalibrate else _read(path).get(section, {})
    return raw if isinstance(raw, dict) and raw.get("key") == key else None


def write_section(inputs: BuildInputs, path: Path, section: str, content: Mapping[str, Any]) -> None:
    """Replace one section; a folder that cannot be written to only costs the next build its time."""
    if inputs.settings.table is not None and not path.parent.exists():  # then nothing else is written to the cache
        return
    document = _read(path) | {"schema": SCHEMA, section: content}
    try:
        write_atomic(path, (json.dumps(document, allow_nan=False) + "\n").encode(), "--cache")
    except StoreError as error:
        inputs.reporter.note(f"the search's measurements are not kept: {error.message}")


@dataclass(frozen=True)
class SearchCache:
    """Measurements of one kind of search (``section``), valid for one ``key``, and what they have cost."""

    inputs: BuildInputs
    path: Path
    section: str
    key: str
    figures: Mapping[GroupSet, Figures]
    passes: int = 0
    seconds: float = 0.0

    @classmethod
    def load(cls, inputs: BuildInputs, section: str, key: str) -> SearchCache:
        """What was measured of this model; nothing where the file is missing, damaged or has another key."""
        path = locate_searches(inputs)
        raw = read_section(inputs, path, section, key)
        if raw is not None:
            try:
                stored = decode(_Section, raw, section)
                figures = dict(
                    _decode_plan(row, f"{section}.plans[{number}]") for number, row in enumerate(stored.plans)
                )
                return cls(inputs, path, section, key, figures, stored.passes, stored.seconds)
            except DocumentError as error:
                inputs.reporter.note(f"{path} is damaged ({error}): its plans are measured again")
        return cls(inputs, path, section, key, {})

    def save(self, figures: Mapping[GroupSet, Figures], passes: int, seconds: float) -> None:
        """Keep ``figures``; a folder that cannot be written to only costs the next build its time."""
        if figures == self.figures:
            return
        rows = [[sorted(groups), *(values.get(key) for key in _list_keys())] for groups, values in figures.items()]
        section = {"key": self.key, "passes": passes, "seconds": round(seconds, 2), "plans": rows}
        write_section(self.inputs, self.path, self.section, section)


@dataclass(frozen=True)
class _Section:
    """What is kept of one kind of search; a row of ``plans`` is the groups in INT8 and the figures."""

    key: str
    passes: int
    seconds: float
    plans: tuple[Any, ...]


def _list_keys() -> tuple[str, ...]:
    """The figures of a row, in their order; those of later metrics may be missing."""
    return tuple(figure.key for figure in list_limited_figures())


def _decode_plan(row: Any, where: str) -> tuple[GroupSet, Figures]:
    keys = _list_keys()
    if not isinstance(row, list) or not 3 <= len(row) <= 1 + len(keys):
        raise DocumentError(f"{where} is no plan with its figures")
    named = dict.fromkeys(keys) | dict(zip(keys, row[1:], strict=False))
    plan = decode(_PlanFigures, {"groups": row[0], "figures": named}, where)
    if plan.figures["ssim_drop"] is None or plan.figures["ssim_drop_worst"] is None:
        raise DocumentError(f"{where} has no SSIM drop")
    return frozenset(plan.groups), plan.figures


@dataclass(frozen=True)
class _PlanFigures:
    groups: tuple[int, ...]
    figures: Mapping[str, float | None]


def _read(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_bytes(path))
    except (OSError, DocumentError):
        return {}
    return document if isinstance(document, dict) and document.get("schema") == SCHEMA else {}
