"""A thread of its own for each engine, so that one that hangs can be left behind.

Nothing in Python, nor in a driver, ends a call that hangs. So nobody waits longer than a limit for it: the thread is
abandoned with all that it holds, and frees it should the call ever return. It is a daemon, and holds up no exit.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


class EngineHungError(Exception):
    """A call took longer than its limit; its thread is abandoned."""


class EngineLeftError(Exception):
    """The thread ended, or was abandoned by another caller, before the call was made."""


@dataclass(order=True)
class _Job:
    patient: bool
    number: int
    work: Callable[[], Any] | None = field(compare=False)
    started: threading.Event = field(default_factory=threading.Event, compare=False)
    done: threading.Event = field(default_factory=threading.Event, compare=False)
    outcome: Any = field(default=None, compare=False)
    error: BaseException | None = field(default=None, compare=False)


class EngineThread:
    """Makes calls one after another. ``free`` is called in it when it ends, also long after it was abandoned."""

    def __init__(self, name: str, free: Callable[[], None]) -> None:
        self._free = free
        self._numbers = itertools.count()
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._lock = threading.Lock()
        self._left = False
        self._thread = threading.Thread(target=self._work, name=f"trt-ff {name}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs; of an abandoned one: whether it still hangs."""
        return self._thread.is_alive()

    def call(self, work: Callable[[], T], limit_s: float, *, patient: bool = False) -> T:
        """What ``work`` gives or raises. Those who are ``patient`` let the calls of others go first.

        ``limit_s`` counts from when the call is made, not from when it is queued behind others.

        Raises:
            EngineHungError: it took longer.
            EngineLeftError: the thread ended before it was made.
        """
        job = self._put(work, patient)
        job.started.wait()
        if not job.done.wait(limit_s):
            self._abandon()
            raise EngineHungError
        if job.error is not None:
            raise job.error
        outcome: T = job.outcome
        return outcome

    def end(self, limit_s: float) -> None:
        """Let it finish what is queued and free what it holds, and wait so long for that; then it is abandoned."""
        with suppress(EngineLeftError):
            self._put(None, patient=True)
        self._thread.join(limit_s)
        self._abandon()

    def _put(self, work: Callable[[], Any] | None, patient: bool) -> _Job:
        with self._lock:
            if self._left:
                raise EngineLeftError
            job = _Job(patient, next(self._numbers), work)
            self._left = work is None
            self._jobs.put(job)
        return job

    def _abandon(self) -> None:
        """Whoever still waits is told; the thread itself ends behind the call that hangs."""
        with self._lock:
            self._left = True
            while True:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                _refuse(job)
            self._jobs.put(_Job(False, -1, None))

    def _work(self) -> None:
        while (job := self._jobs.get()).work is not None:
            job.started.set()
            try:
                job.outcome = job.work()
            except BaseException as error:
                job.error = error
            job.work = None  # it holds faces
            job.done.set()
            del job
        with suppress(Exception):
            self._free()


def _refuse(job: _Job) -> None:
    job.error = EngineLeftError()
    job.started.set()
    job.done.set()
