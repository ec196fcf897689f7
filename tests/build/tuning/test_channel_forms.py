"""Forms that scales of channels take: the same numbers whether they are folded or not, and which form is chosen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from tiny import SIZE, Settings

from trt_facefusion.build.inputs import BuildInputs, read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.tuning.channels import Channels, make_channels, read_channels
from trt_facefusion.build.tuning.corrections import LayerCorrector
from trt_facefusion.build.tuning.ranges import Ranges, calibrate, choose_ranges
from trt_facefusion.build.tuning.thresholds import WORTH_SHIFTING, choose_form
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration.threshold_choice import ChannelForm
from trt_facefusion.quantization.correction.channel_affine import Affine
from trt_facefusion.quantization.folding import fold_scales
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.equalise import find_equalisable
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Array, Precision

FOLDED, UNSHIFTED, PLAIN = ChannelForm(folded=True), ChannelForm(folded=True, shifted=False), ChannelForm(scaled=False)


@pytest.fixture
def uneven(model: Path, tmp_path: Path) -> Path:
    """The tiny generator with channels of very different size, which cancel out again."""
    view, rng = GraphView(prepare(onnx.load(model), {"image": (3, SIZE, SIZE)}).model), np.random.default_rng(0)
    affines = {}
    for tensor in find_equalisable(view):
        count = int((view.shape(tensor) or ())[1])
        affines[tensor] = Affine(rng.integers(-3, 4, count).astype(np.int8), np.zeros(count, np.float32))
    onnx.save(fold_scales(view, affines).view.model, tmp_path / "uneven.onnx")
    return tmp_path / "uneven.onnx"


def read(settings: Settings, model: Path, **changes: Any) -> BuildInputs:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'trt-facefusion[rtx]'")
    named = settings(hold_out=False, onnx=model, backend="tensorrt-rtx", target="sm86", **changes)
    return read_inputs(open_job(named))


def paint(inputs: BuildInputs, plan: Plan, ranges: Ranges, channels: Channels, corrections: Any = None) -> Array:
    amax = channels.place_ranges(ranges.table)
    typed = lower(channels.view, plan, amax, Precision.FP32, channels.affines, corrections)
    with OnnxRuntimeRunner(typed, stand_in=True) as runner:
        return inputs.network.make_renderer(inputs.faces.calibration)(runner, [0, 3])


def test_folded_scales_paint_the_pictures_of_those_in_front_of_quantisers(settings: Settings, uneven: Path) -> None:
    inputs = read(settings, uneven)
    ranges = choose_ranges(inputs, calibrate(inputs))
    assert ranges.calibration is not None and any(map(any, ranges.calibration.offsets.values()))
    plan = plan_by_rules(inputs.view, ranges.observations.amax, "tiny")
    for shifted in (True, False):
        forms = [ChannelForm(folded=folded, shifted=shifted) for folded in (False, True)]
        nodes, folded = (make_channels(inputs.view, ranges.calibration, form) for form in forms)
        assert len(nodes.affines) > 3 and not nodes.folded
        assert len(folded.folded) > 3 and (len(folded.affines) > 3) == shifted
        assert set(folded.refused) <= {"image"}
        np.testing.assert_allclose(paint(inputs, plan, ranges, folded), paint(inputs, plan, ranges, nodes), atol=1e-4)
    plain = make_channels(inputs.view, ranges.calibration, PLAIN)
    assert np.abs(paint(inputs, plan, ranges, plain) - paint(inputs, plan, ranges, folded)).max() > 1e-3


def test_layers_are_corrected_on_the_graph_that_is_lowered(settings: Settings, uneven: Path) -> None:
    inputs = read(settings, uneven, corrections="equalise,scales,bias")
    ranges = choose_ranges(inputs, calibrate(inputs))
    assert ranges.channels.folded and ranges.view is not inputs.view
    plan = plan_by_rules(inputs.view, ranges.observations.amax, "tiny")
    corrections = LayerCorrector(inputs, ranges).correct(plan)
    exact = inputs.paint_reference([0, 3])
    corrected, plain = (
        np.abs(paint(inputs, plan, ranges, ranges.channels, given) - exact).mean() for given in (corrections, None)
    )
    assert len(corrections) >= 5 and corrected < 1.1 * plain


def test_a_calibration_serves_backends_that_cannot_fold(settings: Settings, uneven: Path) -> None:
    inputs = read(settings, uneven)
    ranges = choose_ranges(inputs, calibrate(inputs))
    assert ranges.calibration is not None
    channels = read_channels(inputs.view, ranges.calibration, folds=False)
    assert channels.view is inputs.view and not channels.folded


def test_what_was_named_is_done(settings: Settings, uneven: Path) -> None:
    for corrections, shifts, folds in (("shift", True, True), ("equalise", False, True), ("none", False, False)):
        inputs = read(settings, uneven, corrections=corrections)
        ranges = choose_ranges(inputs, calibrate(inputs))
        assert any(affine.shifts for affine in ranges.affines.values()) == shifts
        assert (ranges.view is not inputs.view) == folds
        assert ranges.record["equalised"] == folds


@pytest.mark.parametrize("version, folds", [("10.16.1.11", False), ("11.4.0.5", True)])
def test_only_a_library_that_builds_from_the_typed_graph_alone_gets_folded_scales(
    monkeypatch: pytest.MonkeyPatch, version: str, folds: bool
) -> None:
    backend = TensorRt()
    monkeypatch.setattr(backend, "version", lambda: version)
    settings = SimpleNamespace(forms="auto")
    job = SimpleNamespace(selection=SimpleNamespace(backend=backend), settings=settings)
    inputs = BuildInputs(cast(Any, job), *cast(Any, [None] * 5))
    assert inputs.folds_scales == folds
    settings.forms = "typed"
    assert inputs.folds_scales  # whatever the version
    settings.forms = "typed,no-folded-scales"
    assert not inputs.folds_scales


@pytest.mark.parametrize(
    ("forms", "folds", "shifts"),
    [("no-shifts", True, False), ("shifts", True, True), ("no-folded-scales,shifts", False, True)],
)
def test_a_form_that_was_named_is_taken_whatever_the_pictures_say(
    settings: Settings, uneven: Path, forms: str, folds: bool, shifts: bool
) -> None:
    inputs = read(settings, uneven, forms=forms)
    ranges = choose_ranges(inputs, calibrate(inputs))
    assert any(affine.shifts for affine in ranges.affines.values()) == shifts
    assert (ranges.view is not inputs.view) == folds


def test_a_shift_has_to_win_what_it_costs() -> None:
    drops = {FOLDED: 2e-3, UNSHIFTED: 2e-3 + WORTH_SHIFTING / 2, PLAIN: 9e-3}
    assert choose_form(drops) is UNSHIFTED
    assert choose_form({**drops, UNSHIFTED: 2e-3 + 2 * WORTH_SHIFTING}) is FOLDED
    assert choose_form({**drops, PLAIN: 1e-3}) is PLAIN
    assert choose_form({ChannelForm(): 2e-3, PLAIN: 2.1e-3}) == ChannelForm()


def test_a_shift_is_weighed_by_the_time_that_it_takes() -> None:
    drops = {FOLDED: 2e-3, UNSHIFTED: 4e-3, PLAIN: 9e-3}
    assert choose_form(drops, {FOLDED: 1.01, UNSHIFTED: 1.0, PLAIN: 1.0}) is FOLDED
    assert choose_form(drops, {FOLDED: 1.5, UNSHIFTED: 1.0, PLAIN: 1.0}) is UNSHIFTED
    assert choose_form(drops, {FOLDED: 2.5, UNSHIFTED: 2.0, PLAIN: 1.0}) is PLAIN
