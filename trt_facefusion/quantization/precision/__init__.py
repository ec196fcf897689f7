"""The plan (node -> precision, with a reason), the rules that make one, and the repair of one that failed."""

from trt_facefusion.quantization.precision.plan import (
    Plan,
    PlannedNode,
    loads,
    plan_rows,
    quantisable,
    read_plan,
    read_rows,
)
from trt_facefusion.quantization.precision.ranges import TensorMoments
from trt_facefusion.quantization.precision.rules import plan_by_rules

__all__ = [
    "Plan",
    "PlannedNode",
    "TensorMoments",
    "loads",
    "plan_by_rules",
    "plan_rows",
    "quantisable",
    "read_plan",
    "read_rows",
]
