"""Figures that others published, with their source: orientation, never a measurement of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trt_facefusion.storage.documents import decode
from trt_facefusion.storage.plain_yaml import parse_yaml

_FILE = Path(__file__).with_name("published.yaml")
GENERATORS, MODULES = "generators", "modules"
"""What a publication speaks of."""


@dataclass(frozen=True)
class PublishedRow:
    """One figure in three precisions, as it was printed; ``beside`` is the row of ours that it is shown with."""

    figure: str
    beside: str
    fp32: str
    fp16: str
    int8: str


@dataclass(frozen=True)
class Publication:
    """Figures as they were printed; ``source`` says by whom, and what is missing."""

    name: str
    source: str
    of: str
    rows: tuple[PublishedRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@cache
def _load() -> tuple[Publication, ...]:
    raw = parse_yaml(_FILE.read_text(encoding="utf-8"))
    return tuple(decode(Publication, row, f"published[{number}]") for number, row in enumerate(raw))


def list_published(of: str) -> Sequence[Publication]:
    """All publications about ``of`` (`GENERATORS` or `MODULES`)."""
    return tuple(publication for publication in _load() if publication.of == of)
