"""Work that is done behind the answers, by a thread of its own: a bounded backlog that is never waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class ShadowQueue(Generic[T]):
    """Hands jobs to ``work`` one after another; what comes while ``backlog`` of them wait is dropped."""

    def __init__(self, work: Callable[[T], None], backlog: int) -> None:
        self._work = work
        self._jobs: queue.Queue[T | None] = queue.Queue(backlog)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trt-ff shadow", daemon=True)
        self._thread.start()

    def offer(self, job: T) -> bool:
        """Queue ``job`` unless too many wait; whether it was. Takes no time."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    @property
    def is_idle(self) -> bool:
        """Whether all that was queued is done."""
        return self._jobs.unfinished_tasks == 0

    def close(self, limit_s: float) -> None:
        """Drop what waits, and wait so long for what is being done."""
        self._ended.set()
        with suppress(queue.Full):
            self._jobs.put_nowait(None)
        self._thread.join(limit_s)

    def _run(self) -> None:
        while not self._ended.is_set():
            job = self._jobs.get()
            with suppress(Exception):  # a comparison that fails is one that was not made
                if job is not None and not self._ended.is_set():
                    self._work(job)
            del job  # it holds a face
            self._jobs.task_done()
