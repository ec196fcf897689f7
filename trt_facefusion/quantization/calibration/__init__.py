"""Calibration: one pass over faces -> histograms -> the range of every activation, and the cache that keeps them.

The FP32 model runs in onnxruntime on faces, one batch after another. Of every activation that INT8 may quantise a
histogram of magnitudes is counted: a fixed size, the same bits whatever the order of the data, so that a pass can be
interrupted and resumed. A rule turns each histogram into amax, the magnitude that 127 stands for. The histograms are
kept beside the table, so another rule needs no other pass.

May import: the ground and `model`; no other part of `quantization`.

Modules, from the ground up:

    histogram           histograms of magnitudes that stream
    thresholds          the rules: histogram -> amax; THRESHOLD_RULES lists them
    table               tensor -> amax, in TensorRT's text format; INT8_MAX
    noise               what a threshold costs a tensor, in dB
    threshold_choice    which rule a table follows, tensor by tensor, and why
    cache               a calibration on disk: the table, and the JSON that it was made from
    taps                what a pass takes of each activation: all of small maps, a part of large ones
    reader              deterministic batches of network inputs
    resume              a pass that was interrupted continues where it stopped
    collect             the pass: model + batches -> histograms
    channels            the range of each channel, from a few samples
    compare             two tables held against each other; a foreign table brought to a model's names

Start reading at `collect.collect` for how ranges are measured, at `cache.Calibration` for what is kept of them.

A new rule for thresholds is one function in `thresholds` and its line in THRESHOLD_RULES.
"""

from trt_facefusion.quantization.calibration.cache import (
    Calibration,
    StaleCalibration,
    cache_path,
    load,
    load_description,
    load_named,
    save,
)
from trt_facefusion.quantization.calibration.collect import collect
from trt_facefusion.quantization.calibration.compare import (
    AmaxChange,
    AssignedRanges,
    TableComparison,
    assign_ranges,
    compare_tables,
)
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.calibration.thresholds import THRESHOLD_RULES, ThresholdRule, parse_rule

__all__ = [
    "THRESHOLD_RULES",
    "AmaxChange",
    "AssignedRanges",
    "Batches",
    "Calibration",
    "CalibrationTable",
    "Histogram",
    "StaleCalibration",
    "TableComparison",
    "ThresholdRule",
    "assign_ranges",
    "cache_path",
    "collect",
    "compare_tables",
    "load",
    "load_description",
    "load_named",
    "parse_rule",
    "save",
]
