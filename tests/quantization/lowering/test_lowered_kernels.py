"""The compiler has the last word on whether a lowered network really runs in INT8."""

from __future__ import annotations

import pytest
from nets import SWAPPER_SHAPES, feeds, ranges, swapper

from trt_facefusion.engine.backends.base import BuildRequest
from trt_facefusion.engine.backends.kernels import find_int8_coverage
from trt_facefusion.engine.backends.tensorrt_rtx import TensorRtRtx
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision

pytest.importorskip("tensorrt_rtx", reason="pip install 'trt-facefusion[rtx]'")


@pytest.mark.parametrize("batches", [(1, 1, 1), (1, 2, 4)])
def test_every_planned_int8_node_of_a_swapper_becomes_an_int8_kernel(batches: tuple[int, int, int]) -> None:
    source = prepare(swapper(width=16), SWAPPER_SHAPES).model
    view, amax = GraphView(source), ranges(source, feeds(SWAPPER_SHAPES))
    plan = plan_by_rules(view, amax, "swapper")
    shapes = {name: tuple((batch, *shape) for batch in batches) for name, shape in SWAPPER_SHAPES.items()}
    engine = TensorRtRtx().build(BuildRequest(lower(view, plan, amax).SerializeToString(), shapes, "sm86"))
    planned = {node.name: node.op for node in plan.nodes if node.precision is Precision.INT8}
    assert engine.kernels_known
    assert find_int8_coverage(planned, engine.kernels, TensorRtRtx.capabilities.math_types).missing == ()
    assert len(planned) == 2 + 4 + 4 + 2
