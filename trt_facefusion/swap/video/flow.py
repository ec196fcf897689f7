"""Stages that work at the same time: each in a thread of its own, with short queues between them.

A queue holds as many items as it is deep and no more, so memory does not grow with what flows through.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

DEPTH = 2
_WAIT_S = 0.1
_END = object()


class _Flow:
    """Threads of one flow, and the first error in any of them."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.error: BaseException | None = None
        self._lock = threading.Lock()

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.error = self.error or error
        self.stopped.set()

    def put(self, into: queue.Queue[Any], item: Any) -> bool:
        """Whether it could be put before the flow was stopped."""
        while not self.stopped.is_set():
            try:
                into.put(item, timeout=_WAIT_S)
                return True
            except queue.Full:
                continue
        return False

    def get(self, out_of: queue.Queue[Any]) -> Any:
        """The next item; `_END` once the flow was stopped."""
        while not self.stopped.is_set():
            try:
                return out_of.get(timeout=_WAIT_S)
            except queue.Empty:
                continue
        return _END


def run_overlapped(items: Iterable[Any], stages: Sequence[Callable[[Any], Any]], depth: int = DEPTH) -> Iterator[Any]:
    """What comes of ``items`` after all ``stages``, in their order; each stage and the reading have their own threads.

    An error in any of them comes out here, when what was before it has come out or earlier. Leaving the iterator early
    stops all threads.
    """
    flow = _Flow()
    queues: list[queue.Queue[Any]] = [queue.Queue(depth) for _ in range(len(stages) + 1)]
    threads = [threading.Thread(target=_feed, args=(flow, items, queues[0]), name="swap-read", daemon=True)]
    threads += [
        threading.Thread(target=_work, args=(flow, stage, queues[i], queues[i + 1]), name=f"swap-{i}", daemon=True)
        for i, stage in enumerate(stages)
    ]
    for thread in threads:
        thread.start()
    try:
        while (item := flow.get(queues[-1])) is not _END:
            yield item
        if flow.error is not None:
            raise flow.error
    finally:
        flow.stopped.set()
        for thread in threads:
            thread.join()


def _feed(flow: _Flow, items: Iterable[Any], into: queue.Queue[Any]) -> None:
    try:
        for item in items:
            if not flow.put(into, item):
                return
        flow.put(into, _END)
    except BaseException as error:  # whatever it is, it comes out in the thread that takes the results
        flow.fail(error)


def _work(flow: _Flow, stage: Callable[[Any], Any], out_of: queue.Queue[Any], into: queue.Queue[Any]) -> None:
    try:
        while (item := flow.get(out_of)) is not _END:
            if not flow.put(into, stage(item)):
                return
        flow.put(into, _END)
    except BaseException as error:
        flow.fail(error)
