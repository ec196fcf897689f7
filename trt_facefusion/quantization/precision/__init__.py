"""The plan: a precision for every node, with the reason, and whatever makes, reads, groups or searches one.

A plan belongs to no backend: it is written as YAML, may be edited, and is lowered for each backend in its own way. It
is made by rules, which look at the graph and at what calibration says of the ranges, or by a search, which measures
plans and keeps those that a budget allows. The search knows no pictures: it is given a function that measures plans.

May import: the ground, `model`, and `quantization.calibration` (histograms).

Modules, from the ground up; each imports only those above it in this list:

    facts          which nodes backends really run in INT8, as far as their logs showed it
    ranges         what FP16 can hold, and the largest values inside of nodes that sum up (`TensorMoments`)
    groups         layers that can only change precision together
    plan           the plan itself (`Plan`), and its YAML
    rules          one rule after another, each with a reason; the first that decides counts
    objectives     what a search makes least of: MACs that are not in INT8, bytes of weights
    time_model     how long the engine of a plan takes that was not compiled, from those that were
    fastest        the search for the fastest plan, by compiling few
    search         which plans to measure next, and the front of those that were
    search_record  the same as JSON

Start reading at `plan.Plan`, then `rules.RULES`; `search.search` says what a search may ask for.
"""

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
