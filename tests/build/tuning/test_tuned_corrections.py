"""Corrections are kept where pictures of calibration faces say so, and never for another reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from tiny import Settings

from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.tuning.corrections import LayerCorrector
from trt_facefusion.build.tuning.layer_inputs import choose_correcting_faces, group_by_inputs
from trt_facefusion.build.tuning.ranges import calibrate, choose_ranges
from trt_facefusion.build.tuning.thresholds import VALIDATION_FACES
from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.correction.kinds import parse_corrections
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision


def open_corrector(settings: BuildSettings) -> tuple[LayerCorrector, Plan]:
    inputs = read_inputs(open_job(settings))
    ranges = choose_ranges(inputs, calibrate(inputs))
    return LayerCorrector(inputs, ranges), plan_by_rules(inputs.view, ranges.observations.amax, "tiny")


def test_auto_keeps_what_measured_best_and_records_all_that_it_tried(settings: Settings) -> None:
    corrector, plan = open_corrector(settings(hold_out=False))
    corrections = corrector.correct(plan)
    tried = corrector.tried
    assert set(tried) == {"none", "bias", "scales + bias"}
    assert len(set(tried.values())) > 1
    best = min(tried, key=lambda name: tried[name])
    assert (" + ".join(corrector.kinds) or "none") == best
    assert bool(corrections) == (best != "none")
    assert corrector.describe() == {"corrections": list(corrector.kinds), "corrections_ssim_drop": tried}
    fewer = plan.raised({plan.names(Precision.INT8)[0]: "test"})
    assert set(corrector.correct(fewer)) <= set(fewer.names(Precision.INT8))


@pytest.mark.parametrize("winner", ["none", "bias", "scales + bias"])
def test_a_correction_that_does_not_win_is_not_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, winner: str
) -> None:
    corrector, plan = open_corrector(settings(hold_out=False))

    def measure(self: LayerCorrector, plan: Plan) -> Callable[[tuple[str, ...]], float]:
        return lambda kinds: 0.001 if (" + ".join(kinds) or "none") == winner else 0.002

    monkeypatch.setattr(LayerCorrector, "_measure", measure)
    corrections: Mapping[str, object] = corrector.correct(plan)
    assert corrector.kinds == (() if winner == "none" else tuple(winner.split(" + ")))
    assert bool(corrections) == (winner != "none")


def test_what_is_named_is_done(settings: Settings) -> None:
    corrector, plan = open_corrector(settings(hold_out=False, corrections="rounding,bias"))
    corrections = corrector.correct(plan)
    assert corrector.kinds == ("rounding", "bias")
    assert set(corrections) <= set(plan.names(Precision.INT8))
    assert corrections
    assert not corrector.ranges.affines


def test_none_corrects_nothing_and_costs_nothing(settings: Settings) -> None:
    corrector, plan = open_corrector(settings(hold_out=False, corrections="none"))
    assert corrector.correct(plan) == {}
    assert corrector.tried == {}


@pytest.mark.parametrize("text", ["", "shfit", "bias;scales"])
def test_unknown_corrections_are_told(text: str) -> None:
    with pytest.raises(BadInputError, match="there is no correction"):
        parse_corrections(text)


def test_a_shift_comes_with_the_scale() -> None:
    assert parse_corrections("shift") == {"shift", "equalise"}
    assert parse_corrections("auto") is None
    assert parse_corrections("none") == frozenset()


def test_corrections_are_tried_on_other_faces_than_those_that_made_them() -> None:
    chosen = choose_correcting_faces(96, 32)
    assert len(chosen) == 32
    assert not set(chosen) & set(spread(96, VALIDATION_FACES))
    assert choose_correcting_faces(6, 32) == list(range(6))


@pytest.mark.parametrize("most", [1, 20_000, 1 << 30])
def test_inputs_of_layers_leave_the_network_within_bounds(settings: Settings, most: int) -> None:
    view = read_inputs(open_job(settings(hold_out=False))).view
    names = [node.name for node in view.float_nodes() if node.op_type == "Conv"]
    groups = group_by_inputs(view, names, 2, most)
    assert [name for group in groups for name in group] == names
    for group in groups:
        tensors = {view.nodes[name].input[0] for name in group}
        assert len(tensors) == 1 or sum(8 * view.per_sample(tensor) for tensor in tensors) <= most
    assert len(groups) == 1 if most == 1 << 30 else len(groups) > 1
