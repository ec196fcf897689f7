"""A plan as a strongly typed ONNX, with what its scales and weights were made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.quantization.correction.weight_correction import Corrections
from trt_facefusion.quantization.precision import Plan


@dataclass(frozen=True)
class LoweredPlan:
    """A plan, and the strongly typed ONNX that it was lowered to with ``ranges`` and ``corrections``.

    Where no node is INT8 there are neither: ``ranges`` is None.
    """

    plan: Plan
    typed: onnx.ModelProto
    ranges: Ranges | None = None
    corrections: Corrections = field(default_factory=dict)
