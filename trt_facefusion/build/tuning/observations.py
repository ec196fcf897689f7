"""What calibration saw of a network, before anything is chosen from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from trt_facefusion.build.tuning.channels import Channels
from trt_facefusion.quantization.calibration.cache import Calibration
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.precision import TensorMoments


@dataclass(frozen=True)
class Observations:
    """What calibration saw: what FP16 needs, and what thresholds are chosen from.

    ``calibration`` holds a histogram for every tensor; None where the user named a ``table``. ``aliases`` are tensors
    that hold the values of another (name -> that other).

    ``amax`` and ``moments`` are read from the histograms at first use: milliseconds, and no inference.
    """

    aliases: Mapping[str, str]
    calibration: Calibration | None
    named: CalibrationTable | None = None
    named_channels: Channels | None = None

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Tensor -> what calibration saw in it; nothing where the user named a table."""
        return {} if self.calibration is None else self.calibration.histograms

    @cached_property
    def amax(self) -> Mapping[str, float]:
        """Largest magnitude of every tensor, whatever the rule: what FP16 overflow is judged by."""
        if self.named is not None:
            return self.named
        amax = {name: histogram.amax for name, histogram in self.histograms.items()}
        return amax | {name: amax[source] for name, source in self.aliases.items() if source in amax}

    @cached_property
    def moments(self) -> Mapping[str, TensorMoments]:
        """Means of every tensor: what FP16 sums and underflow are judged by. Nothing where the user named a table."""
        moments = {name: TensorMoments.of(histogram) for name, histogram in self.histograms.items()}
        return moments | {name: moments[source] for name, source in self.aliases.items() if source in moments}


def add_aliases(table: CalibrationTable, aliases: Mapping[str, str]) -> CalibrationTable:
    """The table with a range for every alias, too: that of the tensor whose values it holds."""
    return CalibrationTable({**table, **{name: table[source] for name, source in aliases.items()}}, table.header)
