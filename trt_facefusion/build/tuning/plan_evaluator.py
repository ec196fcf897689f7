"""Measures many plans of one model on a few faces: one session, plans as inputs, every core busy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.onnxruntime import own_fault
from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.evaluation.accuracy.evaluator import PictureEvaluator
from trt_facefusion.evaluation.accuracy.metric import Metric, PerFace
from trt_facefusion.evaluation.accuracy.registry import list_limited_figures
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.model.messages import hash_model
from trt_facefusion.model.sessions import make_session_options, open_from_builder
from trt_facefusion.quantization.lowering.switch import SWITCHES
from trt_facefusion.quantization.precision.search import Figures, GroupSet
from trt_facefusion.types import Array, Progress, silent

_HASHED_AT_ONCE = 256 << 20
"""Weights of more than this are hashed one after the other, without a copy of all."""
_MAX_WORKERS = 8
"""Inferences at a time: each holds a set of activations."""

T = TypeVar("T")
R = TypeVar("R")


class PlanEvaluator:
    """Measures plans of a switched model (see `lowering.switch`) against the same model with every switch off.

    ``make`` makes that model, which holds every weight twice: it is kept neither while the session is open nor after
    `close`. ``measured`` are the figures of plans, also those from before, which are not measured again. ``passes``
    counts inferences of single faces, ``seconds`` the time that they took.
    """

    def __init__(
        self,
        make: Callable[[], onnx.ModelProto],
        groups: int,
        renderer: PictureRenderer,
        faces: Sequence[int],
        metrics: Sequence[Metric],
    ) -> None:
        self.groups, self.renderer, self.metrics = groups, renderer, tuple(metrics)
        self.faces = list(faces)
        self.measured: dict[GroupSet, Figures] = {}
        self.passes, self.seconds = 0, 0.0
        self._make = make
        self._model: onnx.ModelProto | None = None
        self._session: Any = None
        self._a_plan = 0.0
        self._batches: list[slice] = []
        self._feeds: list[Mapping[str, Array]] = []
        self._evaluator: PictureEvaluator | None = None

    @property
    def metric_names(self) -> str:
        """What is measured, for a key."""
        return ", ".join(metric.described for metric in self.metrics)

    @cached_property
    def key(self) -> str:
        """Digest of everything that decides a measurement: model, scales, weights, groups, faces, metrics, versions."""
        self._model = self._make()
        digest = hash_model(self._model, _HASHED_AT_ONCE)
        feeds = self.renderer.feeder(self.faces)
        for name in sorted(feeds):
            digest.update(np.ascontiguousarray(feeds[name]).tobytes())
        digest.update(f"{self.metric_names}; onnxruntime {ort.__version__}; {len(self.faces)} faces".encode())
        return digest.hexdigest()

    def seconds_a_plan(self) -> float:
        """Estimate from the reference pictures, which are timed."""
        self._open()
        return self._a_plan

    def __call__(self, plans: Sequence[GroupSet], progress: Progress = silent) -> list[Figures]:
        """The figures of ``plans``, in their order."""
        new = [plan for plan in dict.fromkeys(plans) if plan not in self.measured]
        if new:
            evaluator = self._open()
            started = time.perf_counter()
            batches = range(len(self._feeds))
            tasks = [(plan, batch) for plan in new for batch in batches]
            parts = self._map(lambda task: self._values(evaluator, *task), tasks)
            for number, plan in enumerate(new):
                self.measured[plan] = self._figures(parts[number * len(batches) : (number + 1) * len(batches)])
            self.passes += len(new) * len(self.faces)
            self.seconds += time.perf_counter() - started
        return [self.measured[plan] for plan in plans]

    def _figures(self, parts: Sequence[Mapping[str, PerFace]]) -> Figures:
        """The limited figures of a plan from the values [N] of each batch; None for what is not measured."""
        values = {metric.name: np.concatenate([part[metric.name] for part in parts]) for metric in self.metrics}
        by_key = {
            figure.key: figure.of_plan(values[metric.name])
            for metric in self.metrics
            for figure in metric.figures
            if figure.limit is not None
        }
        return {figure.key: by_key.get(figure.key) for figure in list_limited_figures()}

    def _taken(self) -> onnx.ModelProto:
        model, self._model = self._model or self._make(), None
        return model

    def close(self) -> None:
        """Free the session; another measurement opens it again."""
        self._session = self._model = None

    def _map(self, run: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        pool = ThreadPoolExecutor(_workers())
        try:
            return list(pool.map(run, tasks))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C: what has not begun does not begin

    def _values(self, evaluator: PictureEvaluator, plan: GroupSet, batch: int) -> dict[str, PerFace]:
        return evaluator.per_face(self._pictures(plan, batch), self._batches[batch])

    def _pictures(self, plan: GroupSet, batch: int) -> NDArray[np.float32]:
        switches = np.zeros(self.groups, bool)
        switches[sorted(plan)] = True
        try:
            tensor = self._session.run([self.renderer.output], {**self._feeds[batch], SWITCHES: switches})[0]
        except Exception as error:  # onnxruntime's classes have no common base
            raise own_fault("the graph that plans are tried in", error) from error
        return self.renderer.feeder.preset.output.decode(tensor)[: len(self.faces[self._batches[batch]])]

    def _open(self) -> PictureEvaluator:
        """Load the model and make the reference pictures, once."""
        if self._session is None or self._evaluator is None:
            options = make_session_options(max((os.cpu_count() or 1) // _workers(), 1), spin=False)
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            try:
                self._session = open_from_builder(self._taken, options)
            except TrtFaceFusionError:
                raise
            except Exception as error:  # the same
                raise own_fault("the graph that plans are tried in", error) from error
            size = self.renderer.feeder.fixed_batch or 1
            self._batches = [slice(start, start + size) for start in range(0, len(self.faces), size)]
            self._feeds = [self.renderer.feeder(self.faces[batch]) for batch in self._batches]
            started = time.perf_counter()
            without_int8 = self._map(lambda batch: self._pictures(frozenset(), batch), range(len(self._feeds)))
            reference = np.concatenate(without_int8)
            self._evaluator = PictureEvaluator(self.renderer, self.faces, reference, self.metrics)
            self.passes += len(self.faces)
            self._a_plan = time.perf_counter() - started
            self.seconds += self._a_plan
        return self._evaluator


def _workers() -> int:
    return min(_MAX_WORKERS, os.cpu_count() or 1)
