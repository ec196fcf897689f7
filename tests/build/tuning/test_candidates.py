"""What a plan search may put into INT8: what the backend has kernels for, and what rules keep for its role only."""

from __future__ import annotations

import numpy as np
import pytest
from nets import Net, feeds, ranges

from trt_facefusion.build.tuning.search_space import list_candidates
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision


@pytest.mark.parametrize("transposes", [False, True])
def test_transposed_convolutions_are_candidates_where_they_have_kernels(transposes: bool) -> None:
    net = Net()
    stem = net.op("Relu", net.conv("x", 3, 8, name="stem"))
    up = net.op("ConvTranspose", stem, net.const(net.rng.normal(0, 0.1, (8, 8, 3, 3))), name="up", strides=[2, 2])
    y = net.op("Sigmoid", net.conv(net.op("Relu", up), 8, 3, name="head"), name="y")
    model = prepare(net.model({"x": ["N", 3, 8, 8]}, {y: ["N", 3, 17, 17]}), {"x": (3, 8, 8)}).model
    view, amax = GraphView(model), ranges(model, feeds({"x": (3, 8, 8)}))
    plan = plan_by_rules(view, amax, "net")
    assert plan.by_name()["up"].precision is Precision.FP16 and np.isfinite(list(amax.values())).all()
    found = list_candidates(plan, view, amax, transposes=transposes)
    assert found == ["stem", "up", "head"] if transposes else found == ["stem", "head"]
