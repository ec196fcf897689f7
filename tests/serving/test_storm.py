"""Everything at once: engines that raise, hang and break pictures at random, under a rollout with comparisons."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from memory import forget_peak, peak_bytes
from numpy.typing import NDArray
from tricks import QUICK, Saboteur, make_faces, wait_until

from trt_facefusion.errors import GateError, NoEngineError
from trt_facefusion.serving.engines.budget import RolloutBudget
from trt_facefusion.serving.engines.canary import CanaryPool, CanarySettings
from trt_facefusion.serving.engines.pooled import PoolSettings
from trt_facefusion.serving.engines.shares import CanarySpec
from trt_facefusion.serving.seam import ServedFace
from trt_facefusion.swap.engines import ChainOptions, EngineChain
from trt_facefusion.types import Precision

FACES, ROUNDS = 12, 1500


def paint_all(store: Path) -> dict[str, list[NDArray[np.float32]]]:
    """What each engine makes of each face, alone."""
    pictures = {}
    for precision in Precision:
        chain = EngineChain(store, precision, options=ChainOptions(threads=1))
        pictures[precision.value] = [result.picture for result in chain.render(make_faces(FACES))]
        chain.close()
    return pictures


@pytest.mark.slow
def test_no_wrong_picture_leaves_and_all_engines_come_back(built: Path, tmp_path: Path, saboteur: Saboteur) -> None:
    right, rng = paint_all(built), random.Random(7)
    tricks = [saboteur.fail, saboteur.give_nan, saboteur.give_flat, saboteur.hang, None, None, None, None]
    budget = RolloutBudget(max_faults=199, window=200)
    canary = CanarySettings(CanarySpec(Precision.INT8, 0.3), shadow=0.3, budget=budget, state=tmp_path / "state.json")
    pool = CanaryPool(
        [built], canary, settings=PoolSettings(ChainOptions(threads=1), QUICK, infer_limit_s=2.0, open_limit_s=5.0)
    )
    faces, answered, refused = make_faces(FACES), 0, 0
    memory = 0
    for number in range(ROUNDS):
        if number % 20 == 0:
            saboteur.released.set()
            saboteur.tricks.clear()
            saboteur.released.clear()
            wait_until(lambda: all(engine.serves for engine in pool.engines[1:]), 60)
            trick = rng.choice(tricks)
            if trick is not None:
                saboteur.tricks[rng.choice(["int8", "fp16", "fp32"])] = trick
        if number == ROUNDS // 3:
            memory = forget_peak()
        numbers = rng.sample(range(FACES), rng.randint(1, 6))
        for face, answer in zip(
            numbers, pool.serve([faces[n] for n in numbers], [f"{number}-{n}" for n in numbers]), strict=True
        ):
            if isinstance(answer, ServedFace):
                answered += 1
                np.testing.assert_allclose(answer.rendered.picture, right[answer.precision][face], atol=1e-4)
            else:
                refused += 1
                assert isinstance(answer, GateError | NoEngineError)
    saboteur.tricks.clear()
    saboteur.released.set()
    wait_until(lambda: all(engine.serves for engine in pool.engines), 60)
    totals = {
        name: sum(r.value for r in pool.read_metrics() if r.name == name)
        for name in ("engine_faces_total", "face_errors_total")
    }
    assert (totals["engine_faces_total"], totals["face_errors_total"]) == (answered, refused)
    assert refused == 0, "one engine at a time fails, and there is always another"
    assert peak_bytes() - memory < 60_000_000, "of which none should stay"
    pool.close()
