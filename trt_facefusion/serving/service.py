"""The service without HTTP: an order becomes a picture, among many others, within limits.

A request is admitted or refused at once. Its photos are read and its faces found in a thread of the first pool, the
faces wait in the queue of the engines, the picture is pasted and written in a thread of the second. So photos that wait
for an engine block no thread, and a thread that waits for room blocks no photo that is nearly done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.faces.decode import count_pixels, decode_image
from trt_facefusion.serving.batching import EngineWork, MicroBatcher, make_deadline_error
from trt_facefusion.serving.limits import Pace, ServiceLimits
from trt_facefusion.serving.metrics import ServiceMetrics
from trt_facefusion.serving.orders import MEDIA_TYPES, SwapOrder
from trt_facefusion.serving.pixels import PixelBudget, PixelHold
from trt_facefusion.serving.problems import ClientGoneError, DrainingError, OverloadedError, TooLargeError
from trt_facefusion.serving.seam import EngineState, ServedFace, ServesFaces
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.swap.photo import decode_photo
from trt_facefusion.swap.photo_file import encode_photo
from trt_facefusion.swap.provenance import Signer
from trt_facefusion.swap.steps import PreparedSwap, SwapSteps
from trt_facefusion.types import Image

T = TypeVar("T")
_SLOW_CHANGE = 0.1


@dataclass(frozen=True)
class FaceWork:
    """Faces for the engines."""

    engines: ServesFaces

    @property
    def limit(self) -> int:
        """Faces of one inference."""
        return self.engines.batch

    def run(self, items: Sequence[FaceInput], requests: Sequence[str]) -> Sequence[ServedFace | TrtFaceFusionError]:
        """A picture of each face, or why there is none."""
        return self.engines.serve(items, requests)


@dataclass(frozen=True, eq=False)
class SwapAnswer:
    """A picture as a file, who made its faces, and milliseconds by stage."""

    encoded: bytes
    media_type: str
    faces: tuple[ServedFace, ...]
    milliseconds: Mapping[str, float]

    @property
    def engines(self) -> list[tuple[str, str]]:
        """Label and precision of the engines that made it."""
        return list(dict.fromkeys((face.engine, face.precision) for face in self.faces))


class SwapService:
    """Everything behind the routes.

    Args:
        open_engines: opens the engines, in the one thread that they ever see.
        open_steps: everything else of a swap, for those engines.
        limits: what is refused.
        pace: how work is spread.
        signer: signs results, where the operator has a certificate.
        name: what the Open Inference Protocol calls the model.

    Raises: what ``open_engines`` and ``open_steps`` raise.
    """

    def __init__(
        self,
        open_engines: Callable[[], ServesFaces],
        open_steps: Callable[[ServesFaces], SwapSteps],
        limits: ServiceLimits | None = None,
        pace: Pace | None = None,
        signer: Signer | None = None,
        name: str = "swap",
    ) -> None:
        self.limits, self.pace = limits or ServiceLimits(), pace or Pace()
        self.name, self.metrics = name, ServiceMetrics()
        self.batcher = MicroBatcher(open_engines, 4 * self.limits.requests, self.pace.max_wait_s, self.metrics.observe)
        self.engines: ServesFaces = self.batcher.start()
        self.in_service, self.is_draining = 0, False
        self._usual_s = 1.0
        self._pixels = PixelBudget(self.limits.held_pixels)
        self._signer = signer
        try:
            self.steps = open_steps(self.engines)
            self._warm()
        except BaseException:
            self.batcher.close(self.limits.drain_s)
            raise
        self._preparing = ThreadPoolExecutor(self.pace.threads, "prepare")
        self._finishing = ThreadPoolExecutor(self.pace.threads, "finish")
        self.metrics.watch(
            (
                ("requests_in_service", "Requests at work or waiting", lambda: self.in_service),
                ("queue_length", "Faces, and v2 requests, that wait for an engine", lambda: self.batcher.waiting),
                ("held_pixels", "Pixels of decoded photos", lambda: self._pixels.held),
                ("busy_seconds", "How long the inference that runs has been running", lambda: self.batcher.busy_s),
                ("draining", "1: the service is being stopped", lambda: self.is_draining),
            ),
            self.engines,
        )

    @property
    def is_alive(self) -> bool:
        """Whether the engines' thread runs and does not hang."""
        return self.batcher.is_alive and self.batcher.busy_s < self.limits.hang_s

    @property
    def is_ready(self) -> bool:
        """Whether requests are served; a candidate alone serves only its share of them."""
        states = self.describe()
        is_served = any(state.state == "serving" and state.role != "candidate" for state in states)
        return self.is_alive and not self.is_draining and is_served

    def describe(self) -> Sequence[EngineState]:
        """How the engines are."""
        return self.engines.describe()

    def require_room(self) -> None:
        """Raise `OverloadedError` where no more requests are taken."""
        if self.is_draining:
            raise DrainingError("the service is being stopped", "send the request to another instance")
        if self.in_service >= self.limits.requests:
            raise OverloadedError(
                f"{self.in_service} requests are at work or waiting, and no more are taken",
                "try again after the seconds that Retry-After names",
                self._usual_s,
            )

    @contextmanager
    def admit(self) -> Iterator[float]:
        """Take a request in; gives its deadline on the clock of `time.monotonic`.

        Raises:
            OverloadedError: as many as can be are in.
            DrainingError: the service is being stopped.
        """
        self.require_room()
        self.in_service += 1
        started = time.monotonic()
        try:
            yield started + self.limits.deadline_s
            self._usual_s += _SLOW_CHANGE * (time.monotonic() - started - self._usual_s)
        finally:
            self.in_service -= 1

    async def swap(self, order: SwapOrder, request: str) -> SwapAnswer:
        """What ``order`` asks for. Cancelled, it costs no inference any more.

        Raises:
            OverloadedError: too much is asked of the service; nothing was done.
            DeadlineError: it took too long.
            TooLargeError: a photo has too many pixels, or shows too many faces.
            FacesError: a photo cannot be read, or shows no face.
            GateError: the picture is broken whichever engine makes it.
        """
        with self.admit() as deadline:
            hold = self._pixels.open()
            try:
                return await self.finish_by(deadline, self._swap(order, request, deadline, hold))
            finally:
                hold.end()

    async def infer(self, work: EngineWork, item: Any, size: int, request: str) -> Any:
        """The result of ``work`` on ``item``, which takes ``size`` of its limit. Raises as `swap`."""
        with self.admit() as deadline:
            futures = self.batcher.submit(work, [item], request, deadline, [size])
            (result,) = await self.finish_by(deadline, _gather(futures))
            return result

    async def finish_by(self, deadline: float, coming: Awaitable[T]) -> T:
        """What ``coming`` gives. Raises `DeadlineError` where that takes longer than ``deadline``."""
        try:
            return await asyncio.wait_for(coming, max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError as error:
            raise make_deadline_error() from error

    async def run_in_thread(self, step: Callable[..., T], *arguments: Any) -> T:
        """What ``step`` gives, in a thread of those that prepare."""
        return await asyncio.get_running_loop().run_in_executor(self._preparing, step, *arguments)

    def close(self) -> bool:
        """Finish what waits, free the engines; whether that was done in time."""
        self.is_draining = True
        is_done = self.batcher.close(self.limits.drain_s)
        for pool in (self._preparing, self._finishing):
            pool.shutdown(wait=is_done, cancel_futures=True)
        return is_done

    async def _swap(self, order: SwapOrder, request: str, deadline: float, hold: PixelHold) -> SwapAnswer:
        loop = asyncio.get_running_loop()
        clock = [time.perf_counter()]
        expected = self.batcher.expect()
        try:
            prepared = await self.run_in_thread(self._prepare, order, hold, deadline)
            clock.append(time.perf_counter())
            futures = self.batcher.submit(FaceWork(self.engines), prepared.faces, request, deadline)
        finally:
            expected.end()
        served: list[ServedFace] = await _gather(futures)
        clock.append(time.perf_counter())
        for face in served:
            self.metrics.faces.labels(face.engine, face.precision, face.role).inc()
        encoded = await loop.run_in_executor(self._finishing, self._finish, prepared, served, order.kind)
        clock.append(time.perf_counter())
        stages = np.diff(clock) * 1000
        milliseconds = dict(zip(("prepare", "render", "finish"), map(float, stages), strict=True))
        return SwapAnswer(encoded, MEDIA_TYPES[order.kind], tuple(served), milliseconds)

    def _prepare(self, order: SwapOrder, hold: PixelHold, deadline: float) -> PreparedSwap:
        """The photos, decoded, with their faces cut. In a thread of its pool."""
        photos = [*order.sources, order.target]
        hold.take(sum(min(count_pixels(photo), self.limits.photo_pixels) for photo in photos), deadline)
        most = self.limits.photo_pixels
        target = decode_photo(order.target, "target", most)
        sources: list[Image] = []
        if self.steps.preset.swaps:
            for number, source in enumerate(order.sources, 1):
                sources.append(decode_image(source, f"source {number}", most))
        if time.monotonic() > deadline:
            raise make_deadline_error()
        prepared = self.steps.prepare(sources, target, order.faces)
        if len(prepared.tasks) > self.limits.faces:
            raise TooLargeError(
                f"the target shows {len(prepared.tasks)} faces", f"send a photo with at most {self.limits.faces}"
            )
        return prepared

    def _finish(self, prepared: PreparedSwap, served: Sequence[ServedFace], kind: str) -> bytes:
        """The photo with its new faces, as a file. In a thread of its pool."""
        swapped = self.steps.complete(prepared, [face.rendered for face in served])
        encoded = encode_photo(swapped.photo, kind, self.steps.provenance.mark)
        return encoded if self._signer is None else self._signer.sign(encoded, kind, f"picture.{kind.lower()}")

    def _warm(self) -> None:
        """Load what loads itself on first use."""
        embedder = self.steps.embedder
        self.steps.detector.detect(np.zeros((64, 64, 3), np.uint8))
        embedder.embed(np.zeros((1, embedder.size, embedder.size, 3), np.uint8))


async def _gather(futures: Sequence[Future[Any]]) -> list[Any]:
    """The results of ``futures``; where one fails, or nobody waits any more, the others are cancelled."""
    try:
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
    except BaseException:
        for future in futures:
            future.cancel()
        raise


async def serve_unless_gone(receive: Callable[[], Awaitable[Mapping[str, Any]]], coming: Awaitable[T]) -> T:
    """What ``coming`` gives; cancelled when the client leaves. Raises `ClientGoneError` then."""
    work = asyncio.ensure_future(coming)
    leaving = asyncio.ensure_future(_wait_for_leaving(receive))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientGoneError("the client left", "send it again")
    finally:
        for task in (work, leaving):
            task.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


async def _wait_for_leaving(receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
