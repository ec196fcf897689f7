"""The calibration step: what calibration saw, and the ranges that suit the pictures best."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_files import save_calibration
from trt_facefusion.build.tuning.calibration_pass import load_or_collect
from trt_facefusion.build.tuning.channels import Channels, make_channels, read_channels
from trt_facefusion.build.tuning.histograms import find_watched_tensors
from trt_facefusion.build.tuning.named_table import read_named_table
from trt_facefusion.build.tuning.observations import Observations, add_aliases
from trt_facefusion.build.tuning.thresholds import Price, choose_thresholds
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.cache import Calibration, load_description
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.correction.channel_affine import Affines


@dataclass(frozen=True)
class Ranges:
    """What INT8 scales are made of: a threshold for every tensor, and what channels go through.

    ``record`` is for the manifest: the rule, and each rule's mean SSIM drop where `auto` compared them. ``calibration``
    knows the choice; None where the user named the table.
    """

    observations: Observations
    table: CalibrationTable
    channels: Channels
    record: Mapping[str, object]
    calibration: Calibration | None = None

    @property
    def view(self) -> GraphView:
        """The graph that is lowered: the prepared one, perhaps with scales of channels in its constants."""
        return self.channels.view

    @property
    def affines(self) -> Affines:
        """Scale and shift of channels, by nodes in front of the quantisers of ``view``."""
        return self.channels.affines

    @cached_property
    def amax(self) -> Mapping[str, float]:
        """The table as `lower` reads it, for ``view``."""
        return self.channels.place_ranges(self.table)

    def name_range(self, tensor: str) -> str:
        """What table and histograms call that which a quantiser of ``tensor`` sees."""
        name = self.channels.name_range(tensor)
        return self.aliases.get(name, name)

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
        channels = Channels(inputs.view)
        if description is not None:
            channels = read_channels(inputs.view, description, folds=inputs.folds_scales)
        return Observations(aliases, None, read_named_table(inputs, path), channels)
    calibration = load_or_collect(inputs)
    if inputs.settings.table_file is None:  # one that the user named holds what was asked for, or nothing
        save_calibration(inputs, calibration)
    return Observations(aliases, calibration)


def choose_ranges(inputs: BuildInputs, observations: Observations, price: Price | None = None) -> Ranges:
    """The thresholds by whose pictures calibration faces lose least, and the table that is made of them.

    With a ``price``, what channels go through is weighed by the time that it takes.

    Raises:
        StoreError: the table cannot be written.
    """
    if observations.calibration is None:
        assert observations.named is not None and observations.named_channels is not None
        channels = observations.named_channels
        record = {"rule": f"from {inputs.settings.table}", **_describe_channels(channels), "ssim_drop": {}}
        return Ranges(observations, observations.named, channels, record)
    amax, moments = observations.amax, observations.moments
    choice = choose_thresholds(inputs, observations.calibration, observations.aliases, amax, moments, price)
    calibration = observations.calibration.with_choice(choice)
    save_calibration(inputs, calibration)
    channels = make_channels(inputs.view, calibration, choice.form)
    record = {
        "rule": choice.rule,
        **_describe_channels(channels),
        "ssim_drop": dict(choice.tried),
        "tensors": {name: tensor.reason for name, tensor in choice.tensors.items()},
        "trials": choice.trials,
    }
    return Ranges(observations, add_aliases(calibration.table, observations.aliases), channels, record, calibration)


def _describe_channels(channels: Channels) -> dict[str, object]:
    """For the manifest: whether channels are scaled, and how many tensors' are in which way."""
    return {
        "equalised": bool(channels.affines or channels.folded),
        "folded": len(channels.folded),
        "not_folded": dict(channels.refused),
        "shifted": sum(affine.shifts for affine in channels.affines.values()),
    }
