"""A few faces in the simulator of an engine's library, against the stand-in that paints the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.effort import format_duration
from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.errors import GateError
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator
from trt_facefusion.evaluation.accuracy.metrics import measure_psnr_db, measure_ssim
from trt_facefusion.sampling import spread
from trt_facefusion.types import Progress, silent

FACES = 8
"""So many faces are simulated, unless that takes too long."""
SECONDS = 1800.0
"""No further face is begun after so long."""
SMALLEST_PSNR = 35.0
"""dB between simulator and stand-in, in the mean, below which the stand-in proves nothing of the faces it painted."""


@dataclass(frozen=True)
class Simulation:
    """Which of the judged faces the simulator painted, how near the stand-in's pictures of them are, and how long each
    took.

    ``faces`` are indices of the verification faces; ``psnr`` [dB] of simulator against stand-in, ``ssim_drop`` of the
    simulator against the reference, both face by face.
    """

    faces: tuple[int, ...]
    psnr: tuple[float, ...]
    ssim_drop: tuple[float, ...]
    seconds: float
    judged: int

    def as_dict(self) -> Mapping[str, Any]:
        """For the manifest."""
        return {
            "faces": list(self.faces),
            "by_stand_in": self.judged - len(self.faces),
            "psnr_to_stand_in": float(np.mean(self.psnr)),
            "psnr_to_stand_in_min": min(self.psnr),
            "ssim_drop": float(np.mean(self.ssim_drop)),
            "seconds_a_face": self.seconds / len(self.faces),
        }


def simulate(
    evaluator: PictureEvaluator,
    runner: Infers,
    pictures: NDArray[np.float32],
    progress: Progress = silent,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[NDArray[np.float32], Simulation]:
    """The simulator's pictures of a few faces in place of the stand-in's, and how near those are.

    Args:
        evaluator: of the faces that are judged.
        runner: the simulator.
        pictures: the stand-in's pictures [N,H,W,3] of all of them.
        progress: counts faces.
        note: is told what the others take, after the first.

    Raises:
        GateError: the stand-in is too far from the simulator.
    """
    started = time.monotonic()
    chosen, mixed = spread(len(pictures), FACES), pictures.copy()
    faces: list[int] = []
    for number, face in enumerate(chosen):
        if faces and time.monotonic() - started > SECONDS:
            break
        progress("simulate", number, len(chosen))
        mixed[face] = evaluator.paint(runner, slice(face, face + 1))[0]
        faces.append(face)
        if len(faces) == 1 < len(chosen):
            each = time.monotonic() - started
            left = format_duration(min(each * (len(chosen) - 1), SECONDS))
            note(f"the simulator took {each:.0f} s for a face: about {left} more for {len(chosen) - 1} others")
    psnr = measure_psnr_db(pictures[faces].clip(0, 1), mixed[faces].clip(0, 1))
    drops = 1 - measure_ssim(evaluator.reference[faces].clip(0, 1), mixed[faces].clip(0, 1))
    seconds = time.monotonic() - started
    simulation = Simulation(tuple(faces), tuple(map(float, psnr)), tuple(map(float, drops)), seconds, len(pictures))
    if np.mean(psnr) < SMALLEST_PSNR:
        raise GateError(
            f"the simulator's pictures differ from the stand-in's by {np.mean(psnr):.1f} dB on {len(faces)} faces, so "
            "those that it did not paint are not proven",
            f"judge on at most {FACES} faces (--max-eval {FACES}): then the simulator paints all of them",
        )
    return mixed, simulation
