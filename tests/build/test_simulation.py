"""A few faces by a simulator, the others by a stand-in that is held against it."""

from __future__ import annotations

import numpy as np
import pytest

from trt_facefusion.build import simulation as module
from trt_facefusion.build.simulation import FACES, simulate
from trt_facefusion.errors import GateError
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator

PICTURES = np.random.default_rng(0).random((20, 16, 16, 3), dtype=np.float32)


class Painting:
    """A renderer whose simulator paints the reference, off by ``error``; it counts what it painted."""

    def __init__(self, error: float = 0.0) -> None:
        self.error, self.painted = error, list[int]()

    def __call__(self, runner: object, indices: list[int], *_: object) -> np.ndarray:
        self.painted += indices
        return PICTURES[indices] + np.float32(self.error)


def evaluator(renderer: Painting) -> PictureEvaluator:
    return PictureEvaluator(renderer, range(len(PICTURES)), PICTURES)  # type: ignore[arg-type]


def test_only_a_few_faces_are_the_simulators() -> None:
    renderer, stand_in = Painting(0.001), PICTURES + np.float32(0.002)
    mixed, simulation = simulate(evaluator(renderer), None, stand_in)  # type: ignore[arg-type]
    assert renderer.painted == list(simulation.faces) and len(simulation.faces) == FACES
    others = [face for face in range(20) if face not in simulation.faces]
    np.testing.assert_array_equal(mixed[others], stand_in[others])
    np.testing.assert_array_equal(mixed[list(simulation.faces)], PICTURES[list(simulation.faces)] + np.float32(0.001))
    record = simulation.as_dict()
    assert record["by_stand_in"] == 12 and record["psnr_to_stand_in"] == pytest.approx(60, abs=0.5)


def test_what_the_others_take_is_told_after_the_first_face() -> None:
    notes = list[str]()
    simulate(evaluator(Painting()), None, PICTURES.copy(), note=notes.append)  # type: ignore[arg-type]
    assert len(notes) == 1 and f"more for {FACES - 1} others" in notes[0]
    simulate(evaluator(Painting()), None, PICTURES[:1].copy(), note=notes.append)  # type: ignore[arg-type]
    assert len(notes) == 1


def test_no_face_is_begun_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", -1.0)
    _, simulation = simulate(evaluator(Painting()), None, PICTURES.copy())  # type: ignore[arg-type]
    assert simulation.faces == (0,) and simulation.as_dict()["by_stand_in"] == 19


def test_a_stand_in_that_is_far_off_proves_nothing() -> None:
    with pytest.raises(GateError, match="differ from the stand-in's by 20") as error:
        simulate(evaluator(Painting()), None, PICTURES + np.float32(0.1))  # type: ignore[arg-type]
    assert "--max-eval 8" in error.value.remedy
