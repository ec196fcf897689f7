"""Measures many plans of one model on a few faces: one session, plans as inputs, every core busy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime as ort

from trt_facefusion.build.tuning.switched_session import SwitchedSession
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator
from trt_facefusion.evaluation.accuracy.metric import Metric, PerFace
from trt_facefusion.evaluation.accuracy.registry import list_limited_figures
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.model.messages import hash_model
from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.quantization.precision.search import Figures
from trt_facefusion.types import Progress, silent

_HASHED_AT_ONCE = 256 << 20
"""Weights of more than this are hashed one after the other, without a copy of all."""
_MAX_WORKERS = 8
"""Inferences at a time: each holds a set of activations."""

T = TypeVar("T")
R = TypeVar("R")


class PlanEvaluator:
    """Measures plans of a switched model (see `lowering.switch`) against the same model with every switch off.

    ``make_model`` makes that model, which holds every weight twice: it is kept neither while the session is open nor
    after `close`. ``measured`` are the figures of plans, also those from before, which are not measured again.
    ``passes`` counts inferences of single faces, ``seconds`` the time that they took.
    """

    def __init__(
        self,
        make_model: Callable[[], onnx.ModelProto],
        groups: int,
        renderer: PictureRenderer,
        faces: Sequence[int],
        metrics: Sequence[Metric],
    ) -> None:
        self.groups, self.renderer, self.metrics = groups, renderer, tuple(metrics)
        self.faces = list(faces)
        self.measured: dict[GroupSet, Figures] = {}
        self.passes, self.seconds = 0, 0.0
        self._make_model = make_model
        self._model: onnx.ModelProto | None = None
        self._key: str | None = None
        self._open: tuple[SwitchedSession, PictureEvaluator] | None = None
        self._seconds_a_plan = 0.0

    @property
    def metric_names(self) -> str:
        """What is measured, for a key."""
        return ", ".join(metric.described for metric in self.metrics)

    def compute_key(self) -> str:
        """Digest of everything that decides a measurement: model, scales, weights, groups, faces, metrics, versions.

        Makes the model, and hashes its weights, once.
        """
        if self._key is None:
            self._model = self._make_model()
            digest = hash_model(self._model, _HASHED_AT_ONCE)
            feeds = self.renderer.feeder(self.faces)
            for name in sorted(feeds):
                digest.update(np.ascontiguousarray(feeds[name]).tobytes())
            digest.update(f"{self.metric_names}; onnxruntime {ort.__version__}; {len(self.faces)} faces".encode())
            self._key = digest.hexdigest()
        return self._key

    def time_plan(self) -> float:
        """Seconds that measuring one plan takes: the reference pictures are painted, and timed."""
        self._open_session()
        return self._seconds_a_plan

    def __call__(self, plans: Sequence[GroupSet], progress: Progress = silent) -> list[Figures]:
        """The figures of ``plans``, in their order; those that are not measured yet are measured now."""
        new = [plan for plan in dict.fromkeys(plans) if plan not in self.measured]
        if new:
            session, evaluator = self._open_session()
            started = time.perf_counter()
            batches = range(len(session.batches))
            tasks = [(plan, batch) for plan in new for batch in batches]
            parts = _run_parallel(lambda task: _judge(session, evaluator, *task), tasks)
            for number, plan in enumerate(new):
                self.measured[plan] = self._pool(parts[number * len(batches) : (number + 1) * len(batches)])
            self.passes += len(new) * len(self.faces)
            self.seconds += time.perf_counter() - started
        return [self.measured[plan] for plan in plans]

    def _pool(self, parts: Sequence[dict[str, PerFace]]) -> Figures:
        """The limited figures of a plan from the values [N] of each batch; None for what is not measured."""
        values = {metric.name: np.concatenate([part[metric.name] for part in parts]) for metric in self.metrics}
        by_key = {
            figure.key: figure.of_plan(values[metric.name])
            for metric in self.metrics
            for figure in metric.figures
            if figure.limit is not None
        }
        return {figure.key: by_key.get(figure.key) for figure in list_limited_figures()}

    def _take_model(self) -> onnx.ModelProto:
        model, self._model = self._model or self._make_model(), None
        return model

    def close(self) -> None:
        """Free the session; another measurement opens it again."""
        self._open = self._model = None

    def _open_session(self) -> tuple[SwitchedSession, PictureEvaluator]:
        """Load the model and paint the reference pictures, once."""
        if self._open is None:
            threads = max((os.cpu_count() or 1) // _count_workers(), 1)
            session = SwitchedSession(self._take_model, self.groups, self.renderer, self.faces, threads)
            started = time.perf_counter()
            without_int8 = _run_parallel(lambda batch: session.paint(frozenset(), batch), range(len(session.batches)))
            evaluator = PictureEvaluator(self.renderer, self.faces, np.concatenate(without_int8), self.metrics)
            self.passes += len(self.faces)
            self._seconds_a_plan = time.perf_counter() - started
            self.seconds += self._seconds_a_plan
            self._open = session, evaluator
        return self._open


def _judge(session: SwitchedSession, evaluator: PictureEvaluator, plan: GroupSet, batch: int) -> dict[str, PerFace]:
    return evaluator.per_face(session.paint(plan, batch), session.batches[batch])


def _run_parallel(run: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
    pool = ThreadPoolExecutor(_count_workers())
    try:
        return list(pool.map(run, tasks))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C: what has not begun does not begin


def _count_workers() -> int:
    return min(_MAX_WORKERS, os.cpu_count() or 1)
