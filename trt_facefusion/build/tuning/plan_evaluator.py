"""Measures many plans of one model on a few faces: one session, plans as inputs, every core busy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.onnxruntime import own_fault
from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.evaluation.accuracy.identity import identity_cosine
from trt_facefusion.evaluation.accuracy.metrics import finite, ssim
from trt_facefusion.evaluation.accuracy.perceptual import PerceptualDistance
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.feeder import Painter
from trt_facefusion.model.messages import hash_model
from trt_facefusion.model.sessions import make_session_options, open_from_builder
from trt_facefusion.quantization.lowering.switch import SWITCHES
from trt_facefusion.quantization.precision.search import Choice, Figures
from trt_facefusion.types import Array, Progress, silent

_HASHED_AT_ONCE = 256 << 20
"""Weights of more than this are hashed one after the other, without a copy of all."""
_MAX_WORKERS = 8
"""Inferences at a time: each holds a set of activations."""

Pictures = NDArray[np.float32]


@dataclass(frozen=True)
class Metrics:
    """What is measured beside SSIM: only what the budget speaks of, since these take longer than a small generator."""

    perceptual: PerceptualDistance | None = None
    embedder: Embedder | None = None
    template: str | None = None

    def __call__(self, wanted: Pictures, got: Pictures) -> tuple[NDArray[np.float64], ...]:
        """Figures [N] of pictures [N,H,W,3]: SSIM drop, perceptual distance (or NaN), identity cosine (or NaN)."""
        sound = finite(got)
        got = np.where(sound[:, None, None, None], got, 0).clip(0, 1)
        nothing = np.full(len(got), np.nan)
        drop = np.where(sound, 1 - ssim(wanted, got), 1.0)
        distance = nothing if self.perceptual is None else self.perceptual(wanted, got)
        cosine = nothing
        if self.embedder is not None and self.template is not None:
            cosine = identity_cosine(wanted, got, self.template, self.embedder)
        return drop, distance, cosine

    @property
    def names(self) -> str:
        """What is measured, for a key."""
        parts = ["ssim", *([] if self.perceptual is None else [self.perceptual.name])]
        return ", ".join(parts + ([] if self.embedder is None else [f"identity by {self.embedder.digest}"]))


class Meter:
    """Measures plans of a switched model (see `lowering.switch`) against the same model with every switch off.

    ``make`` makes that model, which holds every weight twice: it is kept neither while the session is open nor after
    `close`. ``known`` are measurements from before, choice -> figures: they are not made again. ``passes`` counts
    inferences of single faces, ``seconds`` the time that they took.
    """

    def __init__(
        self,
        make: Callable[[], onnx.ModelProto],
        groups: int,
        painter: Painter,
        faces: Sequence[int],
        metrics: Metrics,
        known: Mapping[Choice, Figures] | None = None,
    ) -> None:
        self.groups, self.painter, self.metrics = groups, painter, metrics
        self.faces = list(faces)
        self.known: dict[Choice, Figures] = dict(known or {})
        self.passes, self.seconds = 0, 0.0
        self._make = make
        self._model: onnx.ModelProto | None = None
        self._session: Any = None
        self._a_plan = 0.0
        self._batches: list[list[int]] = []
        self._feeds: list[Mapping[str, Array]] = []
        self._wanted: list[Pictures] = []

    @cached_property
    def key(self) -> str:
        """Digest of everything that decides a measurement: model, scales, weights, groups, faces, metrics, versions."""
        self._model = self._make()
        digest = hash_model(self._model, _HASHED_AT_ONCE)
        feeds = self.painter.feeder(self.faces)
        for name in sorted(feeds):
            digest.update(np.ascontiguousarray(feeds[name]).tobytes())
        digest.update(f"{self.metrics.names}; onnxruntime {ort.__version__}; {len(self.faces)} faces".encode())
        return digest.hexdigest()

    def seconds_a_plan(self) -> float:
        """Estimate from the reference pictures, which are timed."""
        self._open()
        return self._a_plan

    def __call__(self, choices: Sequence[Choice], progress: Progress = silent) -> list[Figures]:
        """The figures of ``choices``, in their order."""
        new = [choice for choice in dict.fromkeys(choices) if choice not in self.known]
        if new:
            self._open()
            started = time.perf_counter()
            tasks = [(choice, index) for choice in new for index in range(len(self._feeds))]
            rows = self._map(tasks)
            per = len(self._feeds)
            for number, choice in enumerate(new):
                self.known[choice] = _mean(rows[number * per : (number + 1) * per])
            self.passes += len(new) * len(self.faces)
            self.seconds += time.perf_counter() - started
        return [self.known[choice] for choice in choices]

    def _taken(self) -> onnx.ModelProto:
        model, self._model = self._model or self._make(), None
        return model

    def close(self) -> None:
        """Free the session; another measurement opens it again."""
        self._session = self._model = None

    def _map(self, tasks: Sequence[tuple[Choice, int]]) -> list[tuple[NDArray[np.float64], ...]]:
        pool = ThreadPoolExecutor(_workers())
        try:
            return list(pool.map(self._one, tasks))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C: what has not begun does not begin

    def _one(self, task: tuple[Choice, int]) -> tuple[NDArray[np.float64], ...]:
        choice, index = task
        return self.metrics(self._wanted[index], self._pictures(choice, index))

    def _pictures(self, choice: Choice, index: int) -> Pictures:
        switches = np.zeros(self.groups, bool)
        switches[sorted(choice)] = True
        try:
            tensor = self._session.run([self.painter.output], {**self._feeds[index], SWITCHES: switches})[0]
        except Exception as error:  # onnxruntime's classes have no common base
            raise own_fault("the graph that plans are tried in", error) from error
        return self.painter.feeder.preset.output.decode(tensor)[: len(self._batches[index])]

    def _open(self) -> None:
        """Load the model and make the reference pictures, once."""
        if self._session is None:
            options = make_session_options(max((os.cpu_count() or 1) // _workers(), 1), spin=False)
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            try:
                self._session = open_from_builder(self._taken, options)
            except TrtFaceFusionError:
                raise
            except Exception as error:  # the same
                raise own_fault("the graph that plans are tried in", error) from error
            size = self.painter.feeder.fixed_batch or 1
            self._batches = [self.faces[i : i + size] for i in range(0, len(self.faces), size)]
            self._feeds = [self.painter.feeder(batch) for batch in self._batches]
            started = time.perf_counter()
            with ThreadPoolExecutor(_workers()) as pool:
                pictures = pool.map(lambda index: self._pictures(frozenset(), index), range(len(self._feeds)))
                self._wanted = [picture.clip(0, 1) for picture in pictures]
            self.passes += len(self.faces)
            self._a_plan = time.perf_counter() - started
            self.seconds += self._a_plan


def _workers() -> int:
    return min(_MAX_WORKERS, os.cpu_count() or 1)


def _mean(rows: Sequence[tuple[NDArray[np.float64], ...]]) -> Figures:
    drops, distances, cosines = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    perceptual = None if np.isnan(distances).any() else float(distances.mean())
    identity = None if np.isnan(cosines).any() else float(cosines.mean())
    return Figures(float(drops.mean()), float(drops.max()), perceptual, identity)
