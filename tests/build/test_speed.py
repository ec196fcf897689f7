"""What a build says of speed: predicted for a GPU that is not here, and whether INT8 pays on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import Settings

from trt_facefusion.build.result import BuildResult
from trt_facefusion.build.run import build
from trt_facefusion.build.speed import PredictedSpeed
from trt_facefusion.engine.timing.factors import name_file
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.errors import BadInputError
from trt_facefusion.types import Precision

INT8, FP16 = Precision.INT8, Precision.FP16


@pytest.fixture
def built(settings: Settings) -> BuildResult:
    pytest.importorskip("tensorrt_rtx")
    return build(settings(INT8, backend="tensorrt-rtx"))


def test_int8_is_held_against_fp16_that_was_only_compiled(built: BuildResult, settings: Settings) -> None:
    speed = built.speed
    assert speed is not None and speed.gpu.name == "a10g"
    assert set(speed.times) == {INT8, FP16}
    assert [engine.manifest.precision for engine in built.engines] == ["int8"]
    assert built.engines[0].manifest.predicted == speed.times[INT8]
    assert speed.times[INT8].int8_kernels == 5 and not speed.times[INT8].fitted
    document = built.as_dict()["predicted"]
    assert document["what"] == "predicted by a model, not measured"
    assert document["times"]["int8"]["total_ms"] == speed.times[INT8].total_ms
    assert built.record is not None and built.record.shown.predicted is not None
    assert built.record.shown.predicted.times["fp16"] == speed.times[FP16]


def test_another_gpu_is_another_engine_since_plans_are_searched_for_it(built: BuildResult, settings: Settings) -> None:
    again = build(settings(INT8, backend="tensorrt-rtx", gpu="rtx3090"))
    assert not again.engines[0].up_to_date
    assert again.speed is not None and again.speed.gpu.name == "rtx3090"
    assert again.speed.times[INT8].total_ms < built.speed.times[INT8].total_ms  # type: ignore[union-attr]


def test_factors_that_cannot_be_read_are_told_and_cost_no_engine(settings: Settings) -> None:
    pytest.importorskip("tensorrt_rtx")
    plain = settings(FP16, backend="tensorrt-rtx")
    plain.cache.mkdir()
    name_file(plain.cache, get_gpu("a10g")).write_text("{}")
    notes: list[str] = []
    result = build(plain, note=notes.append)
    assert result.engines[0].as_asked and result.speed is not None
    assert any("without fitted factors" in note and "--fit" in note for note in notes)


def test_nothing_is_predicted_for_a_processor(settings: Settings) -> None:
    result = build(settings(FP16))
    assert result.speed is None and result.engines[0].manifest.predicted is None


def test_a_gpu_that_nothing_is_known_of_is_refused_before_anything_is_done(settings: Settings) -> None:
    with pytest.raises(BadInputError, match="gtx970"):
        build(settings(FP16, gpu="gtx970"))


def test_the_verdict_speaks_where_int8_is_no_faster(built: BuildResult) -> None:
    assert built.speed is not None
    int8, fp16 = built.speed.times[INT8], built.speed.times[FP16]
    for total, told in ((2 * fp16.total_ms, True), (0.5 * fp16.total_ms, False)):
        speed = PredictedSpeed(built.speed.gpu, {INT8: replace(int8, total_ms=total), FP16: fp16})
        assert (speed.verdict is not None) == told
