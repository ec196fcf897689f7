"""Calibration: one pass over faces -> histograms -> the range of every activation, and the cache that keeps them."""

from trt_facefusion.quantization.calibration.cache import Calibration, Stale, beside, cache_path, load, load_named, save
from trt_facefusion.quantization.calibration.collect import collect
from trt_facefusion.quantization.calibration.compare import Change, Comparison, Fit, compare, fit
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.calibration.thresholds import THRESHOLD_RULES, ThresholdRule, parse_rule

__all__ = [
    "THRESHOLD_RULES",
    "Batches",
    "Calibration",
    "CalibrationTable",
    "Change",
    "Comparison",
    "Fit",
    "Histogram",
    "Stale",
    "ThresholdRule",
    "beside",
    "cache_path",
    "collect",
    "compare",
    "fit",
    "load",
    "load_named",
    "parse_rule",
    "save",
]
