"""Times of the engines that a plan search had compiled, kept beside what it measured of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.plan_timer import EngineTime
from trt_facefusion.build.tuning.search_cache import locate_searches, read_section, write_section
from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.storage.documents import LATER, DocumentError, decode

SECTION = "times"


@dataclass(frozen=True)
class TimeCache:
    """Times by the groups in INT8, valid for one ``key``.

    ``refused`` are plans that the backend does not compile; ``seconds`` is what compiling took, ``most`` how many
    engines searches were allowed, by their effort.
    """

    inputs: BuildInputs
    path: Path
    key: str
    times: Mapping[GroupSet, EngineTime] = field(default_factory=dict)
    seconds: float = 0.0
    most: Mapping[str, int] = field(default_factory=dict)
    refused: frozenset[GroupSet] = frozenset()

    @classmethod
    def load(cls, inputs: BuildInputs, key: str) -> TimeCache:
        """What was compiled of this model; nothing where the file is missing, damaged or has another key."""
        path = locate_searches(inputs)
        raw = read_section(inputs, path, SECTION, key)
        if raw is None:
            return cls(inputs, path, key)
        try:
            stored = decode(_TimeSection, raw, SECTION)
        except DocumentError as error:
            inputs.reporter.note(f"{path} is damaged ({error}): its engines are compiled again")
            return cls(inputs, path, key)
        times = {frozenset(row.groups): row.time for row in stored.engines}
        refused = frozenset(map(frozenset, stored.refused))
        return cls(inputs, path, key, times, stored.seconds, stored.most, refused)

    def save(self, known: Mapping[GroupSet, EngineTime | None], seconds: float, most: Mapping[str, int]) -> None:
        """Keep what is ``known`` of plans, None where they are refused.

        A folder that cannot be written to only costs the next build its time.
        """
        times = {groups: time for groups, time in known.items() if time is not None}
        refused = frozenset(known.keys() - times.keys())
        if (times, refused, most) != (self.times, self.refused, self.most):
            rows = tuple(_TimeRow(tuple(sorted(groups)), time) for groups, time in times.items())
            listed = tuple(sorted(tuple(sorted(groups)) for groups in refused))
            section = _TimeSection(self.key, round(seconds, 2), most, rows, listed)
            write_section(self.inputs, self.path, SECTION, asdict(section))


@dataclass(frozen=True)
class _TimeRow:
    groups: tuple[int, ...]
    time: EngineTime


@dataclass(frozen=True)
class _TimeSection:
    key: str
    seconds: float
    most: Mapping[str, int]
    engines: tuple[_TimeRow, ...]
    refused: tuple[tuple[int, ...], ...] = field(default=(), metadata=LATER)
