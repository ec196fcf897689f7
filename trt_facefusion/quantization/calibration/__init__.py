"""Calibration: one pass over faces -> histograms -> the range of every activation, and the cache that keeps them."""

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
