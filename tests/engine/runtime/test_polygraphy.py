"""Our runners under Polygraphy's Comparator."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_emulator.driver import EmulatedDriver
from nets import SWAPPER_SHAPES, feeds, swapper
from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc
from polygraphy.json import load_json
from twin import runtime as trt
from twin.swap import face, is_swap_of, plan, swap

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.runtime.polygraphy import PolygraphyRunner, silence
from trt_facefusion.engine.runtime.pycuda import PycudaRunner
from trt_facefusion.engine.runtime.run_results import save_inputs, save_outputs
from trt_facefusion.errors import BackendUnavailableError, BadInputError


def test_the_comparator_runs_an_engine_beside_its_onnx(
    emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    model = swap()
    runners = [
        PolygraphyRunner(lambda: PycudaRunner(plan()), "engine"),
        PolygraphyRunner(lambda: OnnxRuntimeRunner(model), "onnx"),
    ]
    batches = [face(value, batch) for value, batch in ((1, 1), (2, 4))]
    with silence():
        results = Comparator.run(runners, batches)
        matches = Comparator.compare_accuracy(results, compare_func=SimpleCompareFunc(atol=1e-6))
    assert bool(matches)
    for value, batch, outputs in zip((1, 2), (1, 4), results["engine"], strict=True):
        assert is_swap_of(value, dict(outputs.items()), batch) and outputs.runtime > 0
    assert capfd.readouterr() == ("", "")


def test_runners_are_closed_whatever_happens() -> None:
    opened: list[OnnxRuntimeRunner] = []

    def open_runner() -> OnnxRuntimeRunner:
        opened.append(OnnxRuntimeRunner(swapper()))
        return opened[-1]

    wrong = feeds({"target": (3, 31, 32), "source": (64,)})
    with pytest.raises(BadInputError, match="target"), silence():
        list(Comparator.run([PolygraphyRunner(open_runner, "a")], [wrong], streaming=True))
    with pytest.raises(RuntimeError, match="closed"):
        opened[0].infer(wrong)


def test_an_error_of_opening_keeps_its_own_words() -> None:
    def open_runner() -> OnnxRuntimeRunner:
        raise BackendUnavailableError("no GPU", "get one")

    with pytest.raises(BackendUnavailableError, match="no GPU"), silence():
        Comparator.run([PolygraphyRunner(open_runner, "a")], [feeds(SWAPPER_SHAPES)])


def test_a_runner_that_is_not_active_says_so() -> None:
    with pytest.raises(RuntimeError, match="not active"):
        PolygraphyRunner(lambda: OnnxRuntimeRunner(swapper()), "a").infer_impl({})


def test_what_is_saved_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    given = feeds(SWAPPER_SHAPES)
    save_inputs(tmp_path, 0, given)
    save_outputs(tmp_path / "a", 3, {"A: x": given})
    loaded = load_json(str(tmp_path / "inputs" / "0000000000.json"))
    (stored,) = RunResults.load_streaming(str(tmp_path / "a"))
    for name, value in given.items():
        np.testing.assert_array_equal(loaded[name], value)
        np.testing.assert_array_equal(stored["A: x"][0][name], value)
