"""Corrections are kept where pictures of calibration faces say so, and never for another reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from tiny import Settings
from trt_facefusion.quantization.correction.kinds import parse_corrections

from trt_facefusion.build.inputs import Context
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.tuning import corrections as correct
from trt_facefusion.build.tuning.corrections import Correcting, by_memory, correcting_faces
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.build.tuning.thresholds import VALIDATION_FACES
from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.sampling import spread
from trt_facefusion.types import Precision


def made(settings: BuildSettings) -> tuple[Correcting, Plan]:
    found = Context(settings)
    ranges = Ranges(found)
    return Correcting(found, ranges.table, ranges.affines), plan_by_rules(found.view, ranges.amax, "tiny")


def test_auto_keeps_what_measured_best_and_records_all_that_it_tried(settings: Settings) -> None:
    correcting, plan = made(settings(hold_out=False))
    corrections = correcting.of(plan)
    tried = correcting.tried
    assert set(tried) == {"none", "bias", "scales + bias"}
    assert len(set(tried.values())) > 1
    best = min(tried, key=lambda name: tried[name])
    assert (" + ".join(correcting.kinds) or "none") == best
    assert bool(corrections) == (best != "none")
    assert correcting.record == {"corrections": list(correcting.kinds), "corrections_ssim_drop": tried}
    fewer = plan.raised({plan.names(Precision.INT8)[0]: "test"})
    assert set(correcting.of(fewer)) <= set(fewer.names(Precision.INT8))


@pytest.mark.parametrize("winner", ["none", "bias", "scales + bias"])
def test_a_correction_that_does_not_win_is_not_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, winner: str
) -> None:
    correcting, plan = made(settings(hold_out=False))

    def measure(self: Correcting, plan: Plan) -> Callable[[tuple[str, ...]], float]:
        return lambda kinds: 0.001 if (" + ".join(kinds) or "none") == winner else 0.002

    monkeypatch.setattr(correct.Correcting, "_measure", measure)
    corrections: Mapping[str, object] = correcting.of(plan)
    assert correcting.kinds == (() if winner == "none" else tuple(winner.split(" + ")))
    assert bool(corrections) == (winner != "none")


def test_what_is_named_is_done(settings: Settings) -> None:
    correcting, plan = made(settings(hold_out=False, corrections="rounding,bias"))
    corrections = correcting.of(plan)
    assert correcting.kinds == ("rounding", "bias")
    assert set(corrections) <= set(plan.names(Precision.INT8))
    assert corrections
    assert not correcting.affines


def test_none_corrects_nothing_and_costs_nothing(settings: Settings) -> None:
    correcting, plan = made(settings(hold_out=False, corrections="none"))
    assert correcting.of(plan) == {}
    assert correcting.tried == {}


@pytest.mark.parametrize("text", ["", "shfit", "bias;scales"])
def test_unknown_corrections_are_told(text: str) -> None:
    with pytest.raises(BadInputError, match="there is no correction"):
        parse_corrections(text)


def test_a_shift_comes_with_the_scale() -> None:
    assert parse_corrections("shift") == {"shift", "equalise"}
    assert parse_corrections("auto") is None
    assert parse_corrections("none") == frozenset()


def test_corrections_are_tried_on_other_faces_than_those_that_made_them() -> None:
    chosen = correcting_faces(96, 32)
    assert len(chosen) == 32
    assert not set(chosen) & set(spread(96, VALIDATION_FACES))
    assert correcting_faces(6, 32) == list(range(6))


@pytest.mark.parametrize("most", [1, 20_000, 1 << 30])
def test_inputs_of_layers_leave_the_network_within_bounds(settings: Settings, most: int) -> None:
    view = Context(settings(hold_out=False)).view
    names = [node.name for node in view.float_nodes() if node.op_type == "Conv"]
    groups = by_memory(view, names, 2, most)
    assert [name for group in groups for name in group] == names
    for group in groups:
        tensors = {view.nodes[name].input[0] for name in group}
        assert len(tensors) == 1 or sum(8 * view.per_sample(tensor) for tensor in tensors) <= most
    assert len(groups) == 1 if most == 1 << 30 else len(groups) > 1
