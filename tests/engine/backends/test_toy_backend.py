"""A backend is its own file and one line in the registry: nothing else is touched, and everything works with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import SIZE, Settings
from toy_backend import MAGIC, Toy, ToyRunner

from trt_facefusion.build.run import build
from trt_facefusion.cli.main import run
from trt_facefusion.doctor.examine import examine
from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.base import RunOptions
from trt_facefusion.errors import BackendUnavailableError, BadInputError, DeviceError
from trt_facefusion.evaluation.comparison.compare import diff
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.evaluation.profiling.measure import Counts
from trt_facefusion.evaluation.profiling.run import ProfileSettings, profile
from trt_facefusion.inference.open import open_model
from trt_facefusion.types import Precision


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setattr(registry, "BACKENDS", (*registry.BACKENDS, Toy()))


@pytest.fixture
def engine(settings: Settings) -> Path:
    (result,) = build(settings(Precision.INT8, backend="toy")).engines
    return result.folder


def test_it_is_listed_and_selected() -> None:
    assert registry.available()["toy"] == "1.0"
    assert registry.default_target("toy") == "toy1"
    assert registry.select_backend("toy", "toy1").backend.name == "toy"
    assert registry.select_backend("auto", "toy1").reason == "toys for toys"
    with pytest.raises(BackendUnavailableError) as error:
        registry.select_backend("toy", "cpu")
    assert "[toy]" in error.value.remedy
    with pytest.raises(BadInputError) as unknown:
        registry.select_backend("auto", "toy2")
    assert "toy1" in unknown.value.remedy


def test_what_is_selected_without_it_stays() -> None:
    assert registry.default_target("auto") != "toy1"
    assert registry.select_backend("auto", "cpu").backend.name != "toy"


def test_its_engine_is_built_stored_and_opened(engine: Path, settings: Settings) -> None:
    assert engine.name == "int8-toy1-toy-1.0"
    assert (engine / "engine.toy").read_bytes().startswith(MAGIC)
    opened = open_model(engine)
    assert opened.manifest is not None and "standing in" in opened.manifest.verified_with
    feeds = {"image": np.zeros((1, 3, SIZE, SIZE), np.float32)}
    with opened.open_runner() as runner:
        assert isinstance(runner, ToyRunner)
        assert runner.infer(feeds)["picture"].shape == (1, 3, SIZE, SIZE)
    with opened.open_runner(stand_in=True) as runner:
        assert not isinstance(runner, ToyRunner)
    assert build(settings(Precision.INT8, backend="toy")).engines[0].up_to_date


def test_its_engine_is_taken_from_a_models_folder(engine: Path) -> None:
    assert open_model(engine.parent).engine == engine / "engine.toy"


def test_its_engine_is_compared_with_its_own_typed_graph(engine: Path, faces: Path) -> None:
    result = diff(DiffSettings(engine, engine / "typed.onnx", faces, aligned=True, max_faces=4))
    assert result.a["ran"] == "toy" and result.passed
    (output,) = result.outputs
    assert output.max_abs < 0.01


def test_its_engine_is_profiled_itself(engine: Path) -> None:
    counts = Counts(warmups=1, rounds=3, sweep=2)
    result = profile(ProfileSettings(engine, counts=counts, flights=(1,), batches=(1,))).one
    assert not result.stand_in and result.host_overhead_us is None and len(result.times_ms) == 3
    assert profile(ProfileSettings(engine, counts=counts, flights=(1,), batches=(1,), stand_in=True)).one.stand_in


def test_the_doctor_and_the_command_line_show_it(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert examine(tmp_path, tmp_path, quick=True).packages["toy"] == "1.0"
    assert run(["inspect", str(engine)]) == 0
    assert "any CPU" in capsys.readouterr().out


def test_an_engine_that_it_refuses_is_an_error() -> None:
    with pytest.raises(DeviceError):
        Toy().open(b"another", RunOptions())
