"""Which threshold rule: the one whose INT8 pictures of some calibration faces come nearest to FP32's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trt_facefusion.accuracy.metrics import ssim
from trt_facefusion.calibration.cache import Calibration
from trt_facefusion.calibration.table import CalibrationTable
from trt_facefusion.lowering import lower
from trt_facefusion.lowering.equalise import Exponents
from trt_facefusion.pipeline.context import Context
from trt_facefusion.precision import plan_by_rules
from trt_facefusion.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.types import Precision

AUTO_RULES = ("entropy", "mse", "percentile:99.99", "percentile:99.999", "max")
VALIDATION_FACES = 16
"""Calibration faces on which `auto` compares the rules: the verification faces must not choose anything."""


@dataclass(frozen=True)
class Choice:
    """A rule, whether channels are equalised, and the mean SSIM drop of everything that was tried."""

    rule: str
    equalised: bool
    tried: Mapping[str, float]


def with_aliases(table: CalibrationTable, aliases: Mapping[str, str]) -> CalibrationTable:
    """The table with a range for every alias, too: that of the tensor whose values it holds."""
    return CalibrationTable({**table, **{name: table[source] for name, source in aliases.items()}}, table.header)


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` of ``count`` indices, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist()))


def as_arrays(by_tensor: Mapping[str, Sequence[int]]) -> Exponents:
    """Exponents as JSON holds them, as the lowering takes them."""
    return {name: np.array(values, np.int8) for name, values in by_tensor.items()}


def choose(context: Context, calibration: Calibration, aliases: Mapping[str, str], amax: Mapping[str, float]) -> Choice:
    """The rule, and whether to equalise: what loses least in INT8 pictures of a slice of the calibration faces."""
    s = context.settings
    rules = AUTO_RULES if s.rule == "auto" else (s.rule,)
    faces = context.faces[0]
    chosen = spread(len(faces), VALIDATION_FACES)
    wanted = context.paint_reference(faces, "reference pictures", chosen).clip(0, 1)
    painter = context.painter(faces)
    plan = plan_by_rules(context.view, amax, calibration.model)
    tried: dict[str, float] = {}

    def measure(rule: str, equalised: bool) -> None:
        table = with_aliases(calibration.with_rule(rule).table, aliases)
        factors = as_arrays(calibration.exponents) if equalised else {}
        model = lower(context.view, plan, table, base=Precision.FP32, exponents=factors)
        with OnnxRuntimeRunner(model) as runner:
            drop = float(1 - ssim(wanted, painter(runner, chosen).clip(0, 1)).mean())
        tried[_label(rule, equalised)] = drop
        context.progress("rules", len(tried), len(rules) + 1)

    for rule in rules:
        measure(rule, bool(calibration.exponents))
    best = min(rules, key=lambda rule: tried[_label(rule, bool(calibration.exponents))])
    if calibration.exponents:
        measure(best, False)
    label = min(tried, key=lambda name: tried[name])
    shown = ", ".join(f"{name} {drop:.2%}" for name, drop in sorted(tried.items(), key=lambda item: item[1]))
    context.note(f"calibration {label}: smallest SSIM drop on {len(chosen)} calibration faces ({shown})")
    return Choice(best, label == _label(best, True), tried)


def _label(rule: str, equalised: bool) -> str:
    return f"{rule}, equalised" if equalised else rule
