from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from tiny import Settings

from trt_facefusion.build.inputs import BuildInputs, read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.tuning import thresholds as choose_module
from trt_facefusion.build.tuning.channels import make_channels
from trt_facefusion.build.tuning.ranges import Ranges, calibrate, choose_ranges
from trt_facefusion.build.tuning.scale_session import ScaleSession
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator
from trt_facefusion.quantization.calibration.threshold_choice import ChannelForm, ThresholdChoice
from trt_facefusion.quantization.calibration.thresholds import list_compared_rules, parse_rule
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.scales import add_scale_inputs
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision


def read(settings: Settings, **changes: Any) -> BuildInputs:
    return read_inputs(open_job(settings(hold_out=False, **changes)))


def ranges_of(inputs: BuildInputs) -> Ranges:
    return choose_ranges(inputs, calibrate(inputs))


def choice_of(ranges: Ranges) -> ThresholdChoice:
    assert ranges.calibration is not None and ranges.calibration.choice is not None
    return ranges.calibration.choice


@pytest.mark.parametrize("equalised", [True, False])
@pytest.mark.parametrize("rule", ["max", "percentile:99"])
def test_trials_see_the_pictures_of_the_model_with_constant_scales(
    settings: Settings, equalised: bool, rule: str
) -> None:
    from trt_facefusion.evaluation.accuracy.metrics import measure_ssim

    inputs = read(settings)
    ranges = ranges_of(inputs)
    channels = make_channels(inputs.view, ranges.calibration, ChannelForm(scaled=equalised))
    plan = plan_by_rules(inputs.view, ranges.observations.amax, "tiny")
    table = {**ranges.calibration.with_rule(rule).table}
    table |= {name: table[source] for name, source in ranges.aliases.items()}
    faces = [0, 3, 5]
    wanted = inputs.paint_reference(faces)
    with OnnxRuntimeRunner(lower(inputs.view, plan, table, Precision.FP32, channels.affines), stand_in=True) as runner:
        pictures = inputs.network.make_renderer(inputs.faces.calibration)(runner, faces)
    loose = {name: 2 * value for name, value in table.items()}
    evaluator = PictureEvaluator(inputs.network.make_renderer(inputs.faces.calibration), faces, wanted)
    with ScaleSession(plan, loose, channels, evaluator) as trials:
        assert len(trials.activations) >= 5
        before = trials.measure_ssim(loose)
        assert np.array_equal(trials.measure_ssim(table), measure_ssim(wanted.clip(0, 1), pictures.clip(0, 1)))
        assert not np.array_equal(before, trials.measure_ssim(table))


def test_only_activation_scales_become_inputs(settings: Settings) -> None:
    inputs = read(settings)
    ranges = ranges_of(inputs)
    plan = plan_by_rules(inputs.view, ranges.observations.amax, "tiny")
    lowered = lower(inputs.view, plan, ranges.table, Precision.FP32, ranges.affines)
    model, inputs = add_scale_inputs(deepcopy(lowered))
    onnx.checker.check_model(model, full_check=True)
    quantisers = {node.input[0] for node in lowered.graph.node if node.op_type == "QuantizeLinear"}
    assert len(inputs) == len(quantisers)
    assert len(model.graph.input) == len(lowered.graph.input) + len(inputs)


def test_scales_are_tried_in_one_session_at_a_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[ScaleSession] = []
    counts: list[int] = []

    class Counted(ScaleSession):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            opened.append(self)
            counts.append(len(opened))

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            opened.remove(self)

    monkeypatch.setattr(choose_module, "ScaleSession", Counted)
    choice = choice_of(ranges_of(read(settings, rule="auto")))
    assert any(", equalised" in label for label in choice.tried)
    assert any(", equalised" not in label for label in choice.tried)
    assert len(counts) > 1 and set(counts) == {1} and not opened


def test_a_choice_is_made_once_and_read_from_the_cache(settings: Settings) -> None:
    first = ranges_of(read(settings, rule="auto"))
    table, choice = first.table, choice_of(first)
    assert choice.asked == "auto" and choice.trials > 0
    stages: list[str] = []
    again = ranges_of(
        read_inputs(open_job(settings(hold_out=False, rule="auto"), lambda stage, *_: stages.append(stage)))
    )
    assert again.table == table and choice_of(again) == choice
    assert not {"calibrate", "rules", "thresholds"} & set(stages)
    other = ranges_of(
        read_inputs(open_job(settings(hold_out=False, rule="mse"), lambda stage, *_: stages.append(stage)))
    )
    assert other.record["rule"] == "mse" and other.record["tensors"] == {}
    assert "rules" in stages and "calibrate" not in stages


def test_a_tensor_with_its_own_rule_has_its_range_and_its_reason(settings: Settings) -> None:
    from dataclasses import replace

    from trt_facefusion.quantization.calibration.threshold_choice import TensorChoice

    calibration = ranges_of(read(settings)).calibration
    assert calibration is not None and calibration.choice is not None
    name = next(name for name in calibration.histograms if name not in calibration.pinned)
    own = replace(calibration.choice, tensors={name: TensorChoice("percentile:90", "max", 2e-3, 1e-3)})
    chosen = calibration.with_choice(own)
    histogram = calibration.histograms[name]
    assert chosen.table[name] == parse_rule("percentile:90")(histogram) < histogram.amax
    assert {k: v for k, v in chosen.table.items() if k != name} == {
        k: v for k, v in calibration.table.items() if k != name
    }
    assert type(own).from_dict(own.as_dict()) == own
    assert "percentile:90 instead of max" in own.as_dict()["tensors"][name]["reason"]


def test_auto_is_at_least_as_good_as_every_whole_table_on_the_faces_that_chose(settings: Settings) -> None:
    choice = choice_of(ranges_of(read(settings, rule="auto")))
    assert set(list_compared_rules()) <= {label.removesuffix(", equalised") for label in choice.tried}
    assert choice.ssim_drop <= min(choice.tried.values()) + 1e-6
    assert choice.faces == 16 and tiny.SIZE == 32
