"""An engine for a CPU stores results finer where calibration faces say so, and no finer than they ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nets import Net
from tiny import Settings

from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.tuning.corrections import Correcting
from trt_facefusion.build.tuning.integer_storage import ALLOWED, Storing, by_pixels
from trt_facefusion.build.tuning.ranges import calibrate, choose_ranges
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering import find_storable_results, lower
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision


def made(settings: BuildSettings) -> tuple[Storing, Plan]:
    inputs = read_inputs(open_job(settings))
    ranges = choose_ranges(inputs, calibrate(inputs))
    correcting = Correcting(inputs, ranges.table, ranges.affines)
    return Storing(inputs, ranges, correcting), plan_by_rules(inputs.view, ranges.observations.amax, "tiny")


def stored_finer(storing: Storing, plan: Plan) -> list[str]:
    names = {tensor.name for tensor in storing.lowered(plan).graph.initializer}
    return [name for name in storing.order(plan) if f"{name}__part1__stored__scale" in names]


def test_the_engine_loses_little_more_than_float_qdq(settings: Settings) -> None:
    storing, plan = made(settings(hold_out=False))
    inputs = storing.inputs
    engine = storing.lowered(plan)
    table, affines = storing.ranges.table, storing.ranges.affines
    floats = lower(inputs.view, plan, table, Precision.FP32, affines, storing.correcting.of(plan))
    faces = inputs.faces.calibration
    wanted = inputs.paint_reference(range(len(faces))).clip(0, 1)
    drops = []
    for model in (floats, engine):
        with OnnxRuntimeRunner(model) as runner:
            drops.append(float(1 - measure_ssim(wanted, inputs.network.renderer(faces)(runner).clip(0, 1)).mean()))
    assert drops[1] - drops[0] < 2 * ALLOWED
    assert min(storing.tried.values()) == pytest.approx(drops[1] - drops[0], abs=ALLOWED)


@pytest.mark.parametrize(
    ("all_eight_bits", "wins", "kept"),
    [(0.0, [0.01, 0.01], []), (0.01, [0.0099, 0.01], [0]), (0.01, [0.0, 0.0099], [1]), (0.01, [1e-5, 1e-5], [])],
)
def test_as_few_results_as_will_do_are_stored_finer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, all_eight_bits: float, wins: list[float], kept: list[int]
) -> None:
    storing, plan = made(settings(hold_out=False))
    order = storing.order(plan)
    assert len(order) >= 2
    won = dict(zip(order, wins, strict=False))

    def measure(self: Storing, plan: Plan) -> Callable[[tuple[str, ...]], float]:
        return lambda finer: all_eight_bits - sum(won.get(name, 0.0) for name in finer)

    monkeypatch.setattr(Storing, "_measure", measure)
    assert stored_finer(storing, plan) == [order[index] for index in kept]
    assert storing.record["stored_finer"] == [order[index] for index in kept]


def test_a_repaired_plan_keeps_what_the_first_one_measured(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    storing, plan = made(settings(hold_out=False))
    storing.lowered(plan)
    monkeypatch.setattr(Storing, "_measure", None)
    fewer = plan.raised({plan.names(Precision.INT8)[0]: "test"})
    assert set(stored_finer(storing, fewer)) <= set(storing.order(fewer))


def test_large_maps_come_first_and_late_ones_before_early_ones() -> None:
    net = Net()
    first = net.conv("x", 3, 8, name="first")
    small = net.conv(net.conv(first, 8, 8, name="small", strides=[2, 2]), 8, 8, name="inner")
    net.conv(net.conv(net.upsample(small), 8, 8, name="last"), 8, 3, name="head")
    model = net.model({"x": ["N", 3, 16, 16]}, {"head": ["N", 3, 16, 16]})
    view = GraphView(prepare(model, {"x": (3, 16, 16)}).model)
    assert by_pixels(view, find_storable_results(view)) == ["head", "last", "first", "inner", "small"]
