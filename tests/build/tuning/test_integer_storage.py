"""An engine for a CPU stores results finer where calibration faces say so, and no finer than they ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nets import Net
from tiny import Settings

from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.tuning.corrections import LayerCorrector
from trt_facefusion.build.tuning.integer_storage import ALLOWED, IntegerStorage, sort_by_pixels
from trt_facefusion.build.tuning.ranges import calibrate, choose_ranges
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering import find_storable_results, lower
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision


def open_storage(settings: BuildSettings) -> tuple[IntegerStorage, Plan]:
    inputs = read_inputs(open_job(settings))
    ranges = choose_ranges(inputs, calibrate(inputs))
    corrector = LayerCorrector(inputs, ranges)
    return IntegerStorage(inputs, ranges, corrector), plan_by_rules(inputs.view, ranges.observations.amax, "tiny")


def stored_finer(storage: IntegerStorage, plan: Plan) -> list[str]:
    names = {tensor.name for tensor in storage.lower(plan).graph.initializer}
    return [name for name in storage.order_candidates(plan) if f"{name}__part1__stored__scale" in names]


def test_the_engine_loses_little_more_than_float_qdq(settings: Settings) -> None:
    storage, plan = open_storage(settings(hold_out=False))
    inputs = storage.inputs
    engine = storage.lower(plan)
    table, affines = storage.ranges.table, storage.ranges.affines
    floats = lower(inputs.view, plan, table, Precision.FP32, affines, storage.corrector.correct(plan))
    faces = inputs.faces.calibration
    reference = inputs.paint_reference(range(len(faces))).clip(0, 1)
    drops = []
    for model in (floats, engine):
        with OnnxRuntimeRunner(model) as runner:
            drops.append(
                float(1 - measure_ssim(reference, inputs.network.make_renderer(faces)(runner).clip(0, 1)).mean())
            )
    assert drops[1] - drops[0] < 2 * ALLOWED
    assert min(storage.tried.values()) == pytest.approx(drops[1] - drops[0], abs=ALLOWED)


@pytest.mark.parametrize(
    ("all_eight_bits", "wins", "kept"),
    [(0.0, [0.01, 0.01], []), (0.01, [0.0099, 0.01], [0]), (0.01, [0.0, 0.0099], [1]), (0.01, [1e-5, 1e-5], [])],
)
def test_as_few_results_as_will_do_are_stored_finer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, all_eight_bits: float, wins: list[float], kept: list[int]
) -> None:
    storage, plan = open_storage(settings(hold_out=False))
    order = storage.order_candidates(plan)
    assert len(order) >= 2
    won = dict(zip(order, wins, strict=False))

    def measure(self: IntegerStorage, plan: Plan) -> Callable[[tuple[str, ...]], float]:
        return lambda finer: all_eight_bits - sum(won.get(name, 0.0) for name in finer)

    monkeypatch.setattr(IntegerStorage, "_measure", measure)
    assert stored_finer(storage, plan) == [order[index] for index in kept]
    assert storage.describe()["stored_finer"] == [order[index] for index in kept]


def test_a_repaired_plan_keeps_what_the_first_one_measured(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, plan = open_storage(settings(hold_out=False))
    storage.lower(plan)
    monkeypatch.setattr(IntegerStorage, "_measure", None)
    fewer = plan.raised({plan.names(Precision.INT8)[0]: "test"})
    assert set(stored_finer(storage, fewer)) <= set(storage.order_candidates(fewer))


def test_large_maps_come_first_and_late_ones_before_early_ones() -> None:
    net = Net()
    first = net.conv("x", 3, 8, name="first")
    small = net.conv(net.conv(first, 8, 8, name="small", strides=[2, 2]), 8, 8, name="inner")
    net.conv(net.conv(net.upsample(small), 8, 8, name="last"), 8, 3, name="head")
    model = net.model({"x": ["N", 3, 16, 16]}, {"head": ["N", 3, 16, 16]})
    view = GraphView(prepare(model, {"x": (3, 16, 16)}).model)
    assert sort_by_pixels(view, find_storable_results(view)) == ["head", "last", "first", "inner", "small"]
