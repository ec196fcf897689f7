"""How a set is spread over every axis, held against target shares, and what is missing in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_facefusion.faces.curation.facets import AXES, assign_bins
from trt_facefusion.faces.curation.measure import SurveyedPhoto
from trt_facefusion.faces.curation.survey import Survey
from trt_facefusion.faces.faceset import ADVISED_FACES, KINDS


@dataclass(frozen=True)
class Target:
    """The share of a set that a bin should have at least or at most, and what to do where it has not."""

    least: float = 0.0
    most: float = 1.0
    advice: str = ""


TARGETS: Mapping[tuple[str, str], Target] = {
    ("pose", "frontal"): Target(most=0.8, advice="add faces that look to either side"),
    ("pose", "left"): Target(0.1, advice="add faces turned to the picture's left, or mirror some turned to the right"),
    ("pose", "right"): Target(0.1, advice="add faces turned to the picture's right, or mirror some turned to the left"),
    ("pose", "profile"): Target(0.03, advice="add profiles, if the generator will see them"),
    ("tilt", "up"): Target(0.02, advice="add photos taken from below"),
    ("tilt", "down"): Target(0.02, advice="add photos taken from above"),
    ("light", "even"): Target(0.2, advice="add well-exposed photos in soft light"),
    ("light", "side"): Target(0.1, advice="add faces lit by a window or a lamp at one side"),
    ("light", "low"): Target(0.05, most=0.5, advice="mix photos taken at dusk or indoors with daylight"),
    ("light", "bright"): Target(0.03, most=0.5, advice="mix faces in sunlight or flash with softer light"),
    ("tone", "very light"): Target(0.05, most=0.7, advice="add people of other skin tones"),
    ("tone", "light"): Target(0.05, most=0.7, advice="add people of this skin tone"),
    ("tone", "intermediate"): Target(0.05, most=0.7, advice="add people of this skin tone"),
    ("tone", "tan"): Target(0.05, most=0.7, advice="add people of this skin tone"),
    ("tone", "brown"): Target(0.05, most=0.7, advice="add people of this skin tone"),
    ("tone", "dark"): Target(0.05, most=0.7, advice="add people of this skin tone"),
    ("tone", "unknown"): Target(most=0.2, advice="add colour photos that are not overexposed"),
    ("tone x light", "dark, low"): Target(0.03, advice="add people with dark skin photographed at dusk or indoors"),
    ("tone x light", "light, low"): Target(0.02, advice="add people with light skin photographed at dusk or indoors"),
    ("cover", "eyes"): Target(0.02, most=0.3, advice="add some faces with sunglasses or hair over the eyes, not many"),
    ("cover", "mouth"): Target(0.02, most=0.3, advice="add some faces with masks or scarves, not many"),
    ("size", "small"): Target(most=0.3, advice="add larger photos"),
    ("focus", "soft"): Target(most=0.2, advice="replace blurred photos by sharp ones"),
}
"""What a calibration set should hold. INT8 ranges must have seen what the engine will see: rare poses, light and tones
count more than their share among photos. The shares are a judgement, not a measurement: enough faces in 200 (4 to 20)
that a percentile over the set feels them."""


_CLOSE = 0.9  # of the least share: a photo or two less than that is no gap


@dataclass(frozen=True)
class Row:
    """One bin of one axis: ``count`` photos, their share, and its target."""

    axis: str
    bin: str
    words: str
    count: int
    share: float
    target: Target

    @property
    def gap(self) -> str | None:
        """ "none", "few" or "many" where the target is missed."""
        if self.share < _CLOSE * self.target.least:
            return "none" if self.count == 0 else "few"
        return "many" if self.share > self.target.most else None


@dataclass(frozen=True)
class CoverageFinding:
    """Something that is wrong with the set: ``kind`` for programs, ``text`` and ``advice`` for people."""

    kind: str
    text: str
    advice: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"kind": self.kind, "text": self.text, "advice": self.advice}


@dataclass(frozen=True)
class FaceCoverage:
    """The table of a set, what is wrong with the set as a whole, and its gaps, the emptiest first."""

    rows: tuple[Row, ...]
    problems: tuple[CoverageFinding, ...]
    gaps: tuple[CoverageFinding, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        table = [
            {
                "axis": row.axis,
                "bin": row.bin,
                "count": row.count,
                "share": round(row.share, 4),
                "least": row.target.least,
                "most": row.target.most,
            }
            for row in self.rows
        ]
        problems, gaps = ([finding.as_dict() for finding in findings] for findings in (self.problems, self.gaps))
        return {"table": table, "problems": problems, "gaps": gaps}


def measure_coverage(survey: Survey, advised: int = ADVISED_FACES) -> FaceCoverage:
    """The coverage of ``survey``; fewer than ``advised`` different photos are said to be few."""
    rows = tabulate_bins(survey.photos)
    missed = [row for row in rows if row.gap]
    missed.sort(key=lambda row: ("none", "few", "many").index(row.gap or ""))
    return FaceCoverage(rows, find_problems(survey, advised), tuple(_describe_gap(row) for row in missed))


def tabulate_bins(photos: Sequence[SurveyedPhoto]) -> tuple[Row, ...]:
    """A row for each bin of each axis; shares are of the photos that say something about the axis."""
    photo_bins = [assign_bins(photo) for photo in photos]
    rows = []
    for name, axis in AXES.items():
        counts = Counter(bins[name] for bins in photo_bins if name in bins)
        total = max(sum(counts.values()), 1)
        for key, words in axis.bins.items():
            target = TARGETS.get((name, key), Target())
            rows.append(Row(name, key, words, counts[key], counts[key] / total, target))
    return tuple(rows)


def _describe_gap(row: Row) -> CoverageFinding:
    kind = f"{row.axis}/{row.bin}"
    if row.gap == "none":
        return CoverageFinding(kind, f"no {row.words}", row.target.advice)
    limit = f"aim for {row.target.least:.0%}" if row.gap == "few" else f"at most {row.target.most:.0%} is better"
    return CoverageFinding(kind, f"{_format_share(row.share)} {row.words}, {limit}", row.target.advice)


def _format_share(share: float) -> str:
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"


def find_problems(survey: Survey, advised: int) -> tuple[CoverageFinding, ...]:
    """What is wrong with the set as a whole."""
    findings = [*_find_unusable(survey), *_find_repeats(survey), *_find_one_sided(survey)]
    different = len(survey.pick_best_copies())
    if different < advised:
        photos = "photo" if different == 1 else "photos"
        text = f"only {different} different usable {photos}, {advised} give safer INT8 ranges"
        findings.append(CoverageFinding("few", text, f"add about {advised - different} photos that fill the gaps"))
    return tuple(findings)


def _find_unusable(survey: Survey) -> list[CoverageFinding]:
    total = len(survey) + len(survey.skipped)
    counts = Counter(skip.kind for skip in survey.skipped if skip.kind != "duplicate")
    advice = {
        "no_face": "take them out, or check that this is the right folder; pictures without a face calibrate nothing",
        "tiny_face": "use larger photos, or crop them so that the face is not shrunk",
        "unreadable": "save them again as JPEG or PNG, or take them out",
    }
    return [
        CoverageFinding(
            kind,
            f"{count / total:.0%} of the photos ({count} of {total}) are {KINDS[kind]}",
            advice.get(kind, "take them out"),
        )
        for kind, count in sorted(counts.items())
        if count / total >= 0.1
    ]


def _find_repeats(survey: Survey) -> list[CoverageFinding]:
    """Near copies, and one person in most photos."""
    findings = []
    total = len(survey)
    same_files = sum(skip.kind == "duplicate" for skip in survey.skipped)
    extra = total - len(survey.pick_best_copies()) + same_files
    if extra and extra / (total + same_files) >= 0.1:
        different = total + same_files - extra
        text = f"{extra / (total + same_files):.0%} of the faces are near copies of others"
        text += f"; {total + same_files} photos show only {different} different picture{'s' * (different > 1)}"
        advice = "keep one of each, and add photos of other people, places and light; frames of one video count as one"
        findings.append(CoverageFinding("copies", text, advice))
    share = survey.largest_person / max(total, 1)
    if total > 1 and share > 0.3:
        text = "all photos" if share == 1 else f"{share:.0%} of the photos"
        advice = "add other people; with one person there is nobody to swap with and nobody to verify on"
        findings.append(CoverageFinding("one_person", f"{text} seem to show one person", advice))
    return findings


def _find_one_sided(survey: Survey) -> list[CoverageFinding]:
    """Nearly all photos in the same difficult light, or soft."""
    findings = []
    words = {
        ("light", "low"): "in low light",
        ("light", "bright"): "in harsh bright light",
        ("focus", "soft"): "blurred",
    }
    for row in tabulate_bins(survey.photos):
        if (row.axis, row.bin) in words and row.share >= 0.8:
            who = "all faces" if row.share == 1 else f"{row.share:.0%} of the faces"
            text = f"{who} are {words[row.axis, row.bin]}"
            advice = "add photos in other light; ranges from these clip everything else"
            if row.axis == "focus":
                advice = "use sharper photos; detail drives the activations' extremes"
            findings.append(CoverageFinding(f"all_{row.bin}", text, advice))
    return findings
