"""Several inferences in flight: what runners share, and what a runner needs that has no streams of its own."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from trt_facefusion.errors import BadInputError
from trt_facefusion.types import Array, Feeds

Outputs = dict[str, Array]


def keep_order(submit: Callable[[Feeds], Future[Outputs]], slots: int, batches: Iterable[Feeds]) -> Iterator[Outputs]:
    """Outputs in the order of ``batches``, with ``slots`` in flight; what came before a batch that fails is given."""
    pending: deque[Future[Outputs]] = deque()
    for feeds in batches:
        if len(pending) == slots:
            yield pending.popleft().result()
        try:
            pending.append(submit(feeds))
        except Exception:
            yield from _iterate_results(pending)
            raise
    yield from _iterate_results(pending)


def _iterate_results(pending: deque[Future[Outputs]]) -> Iterator[Outputs]:
    while pending:
        yield pending.popleft().result()


def require_slots(slots: int) -> None:
    """Raise BadInputError where ``slots`` inferences in flight could run nothing."""
    if slots < 1:
        raise BadInputError(f"{slots} slots cannot run anything.", "Take at least one slot.")


class Owner:
    """The process that opened a runner: neither threads nor a GPU's context come along into a forked one."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is the process."""
        return os.getpid() == self._process

    def require(self) -> None:
        """Raise RuntimeError in another process, where a call would wait for ever."""
        if not self.is_here:
            raise RuntimeError("the runner was opened in another process: open one in each process, after the fork")


class Queue:
    """Runs calls one after the other in a thread of its own, which starts with the first.

    The thread ends with `close`, and also when the queue is collected or the interpreter ends.
    """

    def __init__(self, slots: int) -> None:
        require_slots(slots)
        self.slots = slots
        self.owner = Owner()
        self._worker = _Worker(slots, self.owner)
        self._finalizer = weakref.finalize(self, self._worker.end)

    def submit(self, call: Callable[[], Outputs], start: Callable[[], None] | None = None) -> Future[Outputs]:
        """The call's future, which cannot be cancelled; waits while ``slots`` are in flight.

        ``start`` is called here, in the order of submission, once there is a slot; what it raises is raised here.

        Raises:
            RuntimeError: it is closed, was opened in another process, or the caller is the callback of a future and
                would wait for ever.
        """
        self.owner.require()
        return self._worker.submit(call, start)

    def close(self) -> None:
        """Let what is in flight finish; closing twice does nothing."""
        self._finalizer()


class _Worker:
    """The thread and what it shares with those who submit. It knows nothing of the queue, which can be dropped."""

    def __init__(self, slots: int, owner: Owner) -> None:
        self._owner = owner
        self._free = threading.Semaphore(slots)
        self._calls: queue.SimpleQueue[tuple[Future[Outputs], Callable[[], Outputs]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = False

    def submit(self, call: Callable[[], Outputs], start: Callable[[], None] | None) -> Future[Outputs]:
        if not self._free.acquire(blocking=threading.current_thread() is not self._thread):
            raise RuntimeError("all slots are in flight: a callback of a future must not wait for another one")
        future: Future[Outputs] = Future()
        future.set_running_or_notify_cancel()  # a cancelled one would keep its slot
        with self._lock:
            if self._ended:
                self._free.release()
                raise RuntimeError("the runner is closed")
            self._begin(start)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="trt-ff-runner", daemon=True)
                self._thread.start()
            self._calls.put((future, call))
        return future

    def _begin(self, start: Callable[[], None] | None) -> None:
        try:
            if start is not None:
                start()
        except BaseException:
            self._free.release()
            raise

    def end(self) -> None:
        if not self._owner.is_here:
            return
        with self._lock:
            self._ended = True
            self._calls.put(None)
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while (entry := self._calls.get()) is not None:
            future, call = entry
            outputs, failure = {}, None
            try:
                outputs = call()
            except BaseException as error:
                failure = error
            self._free.release()  # before the future's callbacks run
            if failure is None:
                future.set_result(outputs)
            else:
                future.set_exception(failure)
            del entry, future, call, outputs, failure  # they would keep the runner until the next call
