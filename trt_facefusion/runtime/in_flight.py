"""Several inferences in flight: what both runners share, and what a runner needs that has no streams of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from trt_facefusion.types import Array, Feeds

Outputs = dict[str, Array]


def in_order(submit: Callable[[Feeds], Future[Outputs]], slots: int, batches: Iterable[Feeds]) -> Iterator[Outputs]:
    """Outputs in the order of ``batches``, with ``slots`` in flight; what came before a batch that fails is given."""
    pending: deque[Future[Outputs]] = deque()
    for feeds in batches:
        if len(pending) == slots:
            yield pending.popleft().result()
        try:
            pending.append(submit(feeds))
        except Exception:
            yield from _results(pending)
            raise
    yield from _results(pending)


def _results(pending: deque[Future[Outputs]]) -> Iterator[Outputs]:
    while pending:
        yield pending.popleft().result()


class Queue:
    """Runs calls one after the other in a thread of its own, which starts with the first."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = threading.Semaphore(slots)
        self._worker = ThreadPoolExecutor(1, "trt-ff-runner", initializer=self._enter)
        self._thread: int | None = None

    def submit(self, call: Callable[[], Outputs]) -> Future[Outputs]:
        """The call's future; waits while ``slots`` are in flight.

        Raises:
            RuntimeError: it is closed, or the caller is the callback of a future and would wait for ever.
        """
        if not self._free.acquire(blocking=threading.get_ident() != self._thread):
            raise RuntimeError("all slots are in flight: a callback of a future must not wait for another one")
        try:
            return self._worker.submit(self._run, call)
        except BaseException:
            self._free.release()
            raise

    def close(self) -> None:
        """Let what is in flight finish; closing twice does nothing."""
        self._worker.shutdown(wait=threading.get_ident() != self._thread)

    def _enter(self) -> None:
        self._thread = threading.get_ident()

    def _run(self, call: Callable[[], Outputs]) -> Outputs:
        try:
            return call()
        finally:
            self._free.release()
