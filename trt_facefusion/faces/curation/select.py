"""A selection of N photos that covers what a folder holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.curation.coverage import TARGETS
from trt_facefusion.faces.curation.facets import AXES, assign_bins
from trt_facefusion.faces.curation.measure import SurveyedPhoto
from trt_facefusion.faces.curation.survey import Survey

FLOOR_SHARPNESS = 0.40
"""Softer than every one of 749 portraits: a blurred face teaches ranges that sharp ones exceed."""
FLOOR_CLIPPED = 0.5
"""Share of black or white pixels from which on a face is more hole than face."""
FLOOR_CONTRAST = 12.0
"""L* from darkest to brightest: below it there is hardly a picture."""

# One unit of distance for each: what two photos that differ clearly have between them.
_YAW, _PITCH, _ROLL, _ITA, _LIGHTNESS, _CONTRAST, _SIDE = 20.0, 10.0, 15.0, 30.0, 15.0, 15.0, 20.0
_SHARPNESS, _LOG2_SIZE = 0.06, 1.0
_NAMED = 3  # reasons, the rarest first
_PERSON = 1.6  # of `same_person`, about the distance between two random people


@dataclass(frozen=True)
class SelectedPhoto:
    """A photo of the selection, and why; ``distance`` to the nearest photo that was chosen before it."""

    index: int
    reason: str
    distance: float


@dataclass(frozen=True)
class Selection:
    """The chosen photos in the order of choice, and those that were not considered, with the reason."""

    picks: tuple[SelectedPhoto, ...]
    dropped: tuple[tuple[int, str], ...]

    @property
    def indices(self) -> list[int]:
        """Of the chosen photos, in the order of choice: a prefix is a good smaller selection."""
        return [pick.index for pick in self.picks]


def explain_rejection(photo: SurveyedPhoto) -> str | None:
    """Why a photo is too bad to calibrate on, or None."""
    e = photo.exposure
    if photo.sharpness < FLOOR_SHARPNESS:
        return f"blurred (sharpness {photo.sharpness:.2f}, at least {FLOOR_SHARPNESS:.2f} is needed)"
    if e.clipped_bright + e.clipped_dark > FLOOR_CLIPPED:
        return f"{e.clipped_bright + e.clipped_dark:.0%} of the face is black or burnt out"
    if e.contrast < FLOOR_CONTRAST:
        return "hardly any contrast"
    return None


def compute_features(survey: Survey, same_person: float) -> NDArray[np.float64]:
    """Points [N,D]; squared distance is that of identity plus that of attributes, each about 1 for strangers."""
    identity = survey.embeddings.astype(np.float64) / (same_person * _PERSON)
    rows = np.array([_weigh_attributes(photo) for photo in survey.photos], np.float64).reshape(len(survey), -1)
    return np.hstack([identity, rows / math.sqrt(rows.shape[1])])


def _weigh_attributes(photo: SurveyedPhoto) -> list[float]:
    pose, e = photo.pose, photo.exposure
    turned = [pose.yaw / _YAW, pose.pitch / _PITCH, pose.roll / _ROLL] if pose else [0.0, 0.0, 0.0]
    tone = 40.0 if photo.tone.ita is None else photo.tone.ita
    light = [e.lightness / _LIGHTNESS, e.contrast / _CONTRAST, e.side / _SIDE, 4 * e.clipped_bright]
    covers = [float("eyes" in photo.covered), float("mouth" in photo.covered)]
    size = math.log2(max(photo.face_px, 1)) / _LOG2_SIZE
    return [*turned, tone / _ITA, *light, *covers, photo.sharpness / _SHARPNESS, size]


def select(
    survey: Survey,
    count: int,
    *,
    same_person: float,
    activations: NDArray[np.float64] | None = None,
) -> Selection:
    """Choose ``count`` photos: k-center greedy, weighted by what the selection still lacks.

    What is below the quality floor goes, and all but the sharpest of near copies. Then, again and again, the photo with
    the largest product of its distance to the nearest chosen one (farthest point: T. Gonzalez, "Clustering to minimize
    the maximum intercluster distance", 1985) and of 1 + the deficit of its bins (`TARGETS`, or what the folder has). It
    starts with the photo nearest to the mean. There is no chance in it, and ties are decided by the content's digest:
    the same photos give the same selection, whatever their names and order.

    Args:
        survey: the photos.
        count: how many to choose; all that are fit where there are fewer.
        same_person: the embedder's.
        activations: further features [N,T] of the photos, such as a generator's activations; scaled to the same weight.

    Raises:
        FacesError: no photo is above the floor.
    """
    dropped = {index: why for index, photo in enumerate(survey.photos) if (why := explain_rejection(photo))}
    fit = np.array([index for index in range(len(survey)) if index not in dropped], np.int64)
    candidates = survey.pick_best_copies(fit)
    best = {int(survey.copies[index]): survey.photos[index].file for index in candidates}
    for index in sorted(set(fit.tolist()) - set(candidates)):
        dropped[index] = f"near copy of {best[int(survey.copies[index])]}"
    if not candidates:
        raise FacesError(
            f"none of the {len(survey)} faces is good enough to calibrate on: they are blurred, burnt out or black",
            "Use sharper photos; `trt-ff faces audit` says what is wrong with each.",
        )
    points = compute_features(survey, same_person)
    if activations is not None:
        points = np.hstack([points, _standardise(activations, candidates)])
    order = _GreedySelection(
        points[candidates], [survey.photos[index] for index in candidates], min(count, len(candidates))
    ).run()
    picks = tuple(
        SelectedPhoto(candidates[position], reason, round(distance, 4)) for position, reason, distance in order
    )
    return Selection(picks, tuple(sorted(dropped.items())))


def _standardise(values: NDArray[np.float64], candidates: Sequence[int]) -> NDArray[np.float64]:
    """Columns with mean 0 and deviation 1 over ``candidates``, so scaled that strangers are about 1 apart."""
    mean, deviation = values[candidates].mean(0), values[candidates].std(0)
    return np.asarray((values - mean) / np.maximum(deviation, 1e-9) / math.sqrt(2 * values.shape[1]))


class _GreedySelection:
    """The greedy choice over candidates that are already sorted by digest."""

    def __init__(self, points: NDArray[np.float64], photos: Sequence[SurveyedPhoto], count: int) -> None:
        self.points, self.count = points, count
        self.bins = [
            [(axis, key) for axis, key in assign_bins(photo).items() if (axis, key) in TARGETS] for photo in photos
        ]
        self.held = held = Counter(axis_bin for bins in self.bins for axis_bin in bins)
        # What the folder does not have cannot be asked for.
        self.need = {
            axis_bin: min(math.ceil(TARGETS[axis_bin].least * count), held[axis_bin])
            for axis_bin in held
            if TARGETS[axis_bin].least > 0
        }
        self.have: Counter[tuple[str, str]] = Counter()

    def run(self) -> list[tuple[int, str, float]]:
        """(candidate, reason, distance to the nearest earlier one) in the order of choice."""
        apart = np.linalg.norm(self.points - self.points.mean(0), axis=1)
        first = int(apart.argmin())
        picks = [(first, "the most ordinary face", 0.0)]
        nearest = np.linalg.norm(self.points - self.points[first], axis=1)
        self._take(first, nearest)
        while len(picks) < self.count:
            lacks = np.array([self._measure_lack(bins) for bins in self.bins])
            index = int(np.argmax(np.where(nearest < 0, -1.0, nearest * (1 + lacks))))
            picks.append((index, self._explain_pick(index), float(nearest[index])))
            nearest = _shrink_distances(nearest, np.linalg.norm(self.points - self.points[index], axis=1))
            self._take(index, nearest)
        return picks

    def _take(self, index: int, nearest: NDArray[np.float64]) -> None:
        self.have.update(self.bins[index])
        nearest[index] = -1.0

    def _measure_lack(self, bins: Sequence[tuple[str, str]]) -> float:
        """The sum of the unfilled shares of the bins' needs."""
        needs = ((self.need[axis_bin], self.have[axis_bin]) for axis_bin in bins if self.need.get(axis_bin))
        return sum(max(0.0, 1 - have / need) for need, have in needs)

    def _explain_pick(self, index: int) -> str:
        lacking = [axis_bin for axis_bin in self.bins[index] if self.have[axis_bin] < self.need.get(axis_bin, 0)]
        if not lacking:
            return "farthest from all chosen before"
        lacking.sort(key=lambda axis_bin: self.held[axis_bin])
        return "adds " + ", ".join(list(dict.fromkeys(map(_describe_bin, lacking)))[:_NAMED])


def _describe_bin(axis_bin: tuple[str, str]) -> str:
    """The bin in words; a person's skin tone is not spelt out, since the reason is written to a file."""
    axis, key = axis_bin
    return "a skin tone that was short" if axis.startswith("tone") else AXES[axis].bins[key]


def _shrink_distances(nearest: NDArray[np.float64], apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smaller distance of each; chosen candidates stay at -1."""
    return np.asarray(np.where(nearest < 0, -1.0, np.minimum(nearest, apart)))
