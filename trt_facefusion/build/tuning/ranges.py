"""The calibration step: what calibration saw, and the ranges that suit the pictures best."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_files import save_calibration
from trt_facefusion.build.tuning.calibration_pass import load_or_collect
from trt_facefusion.build.tuning.histograms import find_watched_tensors
from trt_facefusion.build.tuning.named_table import read_named_table
from trt_facefusion.build.tuning.observations import Observations, add_aliases, read_affines
from trt_facefusion.build.tuning.thresholds import choose_thresholds
from trt_facefusion.quantization.calibration.cache import Calibration, load_description
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.correction.channel_affine import Affines


@dataclass(frozen=True)
class Ranges:
    """What INT8 scales are made of: a threshold for every tensor, scale and shift of the channels.

    ``record`` is for the manifest: the rule, and each rule's mean SSIM drop where `auto` compared them. ``calibration``
    knows the choice; None where the user named the table.
    """

    observations: Observations
    table: CalibrationTable
    affines: Affines
    record: Mapping[str, object]
    calibration: Calibration | None = None

    @property
    def aliases(self) -> Mapping[str, str]:
        """Tensors that hold the values of another: name -> that other."""
        return self.observations.aliases

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Tensor -> what calibration saw in it; nothing where the user named a table."""
        return self.observations.histograms

    @property
    def table_sha256(self) -> str:
        """Digest of the table's text."""
        return hashlib.sha256(self.table.dumps().encode()).hexdigest()


def calibrate(inputs: BuildInputs) -> Observations:
    """Histograms of every tensor: from the cache, or from one pass over the calibration faces; or the named table.

    Raises:
        CalibrationCacheError: the named table leaves no node to INT8.
        StoreError: the calibration cannot be written.
    """
    aliases = find_watched_tensors(inputs.view)[1]
    path = inputs.settings.table
    if path is not None:
        description = load_description(path)
        affines = {} if description is None else read_affines(description)
        return Observations(aliases, None, read_named_table(inputs, path, affines), affines)
    calibration = load_or_collect(inputs)
    if inputs.settings.table_file is None:  # one that the user named holds what was asked for, or nothing
        save_calibration(inputs, calibration)
    return Observations(aliases, calibration)


def choose_ranges(inputs: BuildInputs, observations: Observations) -> Ranges:
    """The thresholds by whose pictures calibration faces lose least, and the table that is made of them.

    Raises:
        StoreError: the table cannot be written.
    """
    if observations.calibration is None:
        assert observations.named is not None
        affines = observations.named_affines
        record: dict[str, object] = {"rule": f"from {inputs.settings.table}", "equalised": bool(affines)}
        record |= {"shifted": _count_shifted(affines), "ssim_drop": {}}
        return Ranges(observations, observations.named, affines, record)
    amax, moments = observations.amax, observations.moments
    choice = choose_thresholds(inputs, observations.calibration, observations.aliases, amax, moments)
    calibration = observations.calibration.with_choice(choice)
    save_calibration(inputs, calibration)
    affines = read_affines(observations.calibration) if choice.equalised else {}
    record = {
        "rule": choice.rule,
        "equalised": choice.equalised,
        "shifted": _count_shifted(affines),
        "ssim_drop": dict(choice.tried),
        "tensors": {name: tensor.reason for name, tensor in choice.tensors.items()},
        "trials": choice.trials,
    }
    return Ranges(observations, add_aliases(calibration.table, observations.aliases), affines, record, calibration)


def _count_shifted(affines: Affines) -> int:
    """Tensors whose channels are shifted."""
    return sum(affine.shifts for affine in affines.values())
