"""The queue in front of the engines: one thread runs them, and what comes at the same time goes in together.

Work waits a few milliseconds for company, and only while somebody is on the way. What nobody waits for any more,
because the client has left or the deadline has passed, costs no inference.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.serving.problems import DeadlineError, DrainingError, OverloadedError


class EngineWork(Protocol):
    """Work of one kind; equal ones go into one inference."""

    @property
    def limit(self) -> int:
        """As many items as fit into one inference."""

    def run(self, items: Sequence[Any], requests: Sequence[str]) -> Sequence[Any]:
        """A result for each item, or the `TrtFaceFusionError` that says why there is none."""


class Closes(Protocol):
    """What is freed at the end."""

    def close(self) -> None:
        """Free it."""


Observe = Callable[[int, float, float], None]
"""``observe(items, longest_wait_s, inference_s)``: one inference."""


@dataclass(eq=False)
class Ticket:
    """One item in the queue; ``future`` gets its result."""

    work: EngineWork
    item: Any
    size: int
    request: str
    deadline: float
    since: float = field(default_factory=time.monotonic)
    future: Future[Any] = field(default_factory=Future)


class Expected:
    """A promise that work is on its way; ``end`` takes it back, once."""

    def __init__(self, batcher: MicroBatcher) -> None:
        self._batcher: MicroBatcher | None = batcher

    def end(self) -> None:
        """The work has come, or will not."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            batcher._change_expected(-1)


class MicroBatcher:
    """A bounded queue, and the thread that runs what is in it.

    Args:
        open_engines: called in that thread, which is the only one that the engines ever see.
        capacity: as many items may wait, unless one request alone has more.
        max_wait_s: as long an item waits for others.
        observe: told of every inference.
    """

    def __init__(
        self,
        open_engines: Callable[[], Closes],
        capacity: int,
        max_wait_s: float,
        observe: Observe = lambda items, wait_s, inference_s: None,
    ) -> None:
        self.capacity, self.max_wait_s, self._observe = capacity, max_wait_s, observe
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._expected = 0
        self._closing = False
        self._busy_since: float | None = None
        self._opened: Future[Closes] = Future()
        self._thread = threading.Thread(target=self._work, args=(open_engines,), name="engines", daemon=True)

    def start(self) -> Any:
        """Start the thread; gives what ``open_engines`` opened, or raises what it raised."""
        self._thread.start()
        return self._opened.result()

    def expect(self) -> Expected:
        """Say that work is being prepared: those who wait, wait for it."""
        self._change_expected(+1)
        return Expected(self)

    def submit(
        self, work: EngineWork, items: Sequence[Any], request: str, deadline: float, sizes: Sequence[int] | None = None
    ) -> list[Future[Any]]:
        """Queue all of ``items`` or none.

        Args:
            work: what is to be done with them.
            items: what goes in.
            request: to which request they belong.
            deadline: on the clock of `time.monotonic`; afterwards nothing is inferred any more.
            sizes: how much of ``work.limit`` each takes, else 1.

        Raises:
            OverloadedError: the queue is full.
            DrainingError: the service is being stopped.
        """
        tickets = [
            Ticket(work, item, size, request, deadline)
            for item, size in zip(items, sizes or [1] * len(items), strict=True)
        ]
        with self._changed:
            self._drop_abandoned()
            if self._closing:
                raise DrainingError("the service is being stopped", "send the request to another instance")
            if self._waiting and len(self._waiting) + len(tickets) > self.capacity:
                raise OverloadedError("the queue is full", "try again a little later")
            self._waiting.extend(tickets)
            self._changed.notify_all()
        return [ticket.future for ticket in tickets]

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._waiting)

    @property
    def busy_s(self) -> float:
        """For how long the inference that runs has been running; 0 where none does."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self, timeout_s: float) -> bool:
        """Take nothing more, finish what waits, free the engines; whether that was done within ``timeout_s``."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _change_expected(self, by: int) -> None:
        with self._changed:
            self._expected += by
            self._changed.notify_all()

    def _work(self, open_engines: Callable[[], Closes]) -> None:
        try:
            engines = open_engines()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(engines)
        while tickets := self._gather():
            self._run(tickets)
        engines.close()

    def _gather(self) -> list[Ticket]:
        """What goes into the next inference; nothing when the queue is closed and empty."""
        with self._changed:
            while True:
                self._drop_abandoned()
                if not self._waiting:
                    if self._closing:
                        return []
                    self._changed.wait()
                    continue
                first = self._waiting[0]
                tickets, is_full = self._pick(first.work)
                left_s = first.since + self.max_wait_s - time.monotonic()
                if is_full or left_s <= 0 or not self._expected or self._closing:
                    picked = set(tickets)
                    self._waiting = deque(ticket for ticket in self._waiting if ticket not in picked)
                    return tickets
                self._changed.wait(left_s)

    def _pick(self, work: EngineWork) -> tuple[list[Ticket], bool]:
        """The oldest tickets for ``work`` that fit into one inference, and whether no more would."""
        tickets: list[Ticket] = []
        taken = 0
        for ticket in self._waiting:
            if ticket.work != work:
                continue
            if tickets and taken + ticket.size > work.limit:
                return tickets, True
            tickets.append(ticket)
            taken += ticket.size
        return tickets, taken >= work.limit

    def _drop_abandoned(self) -> None:
        """Forget what was cancelled, and refuse what is too late."""
        now = time.monotonic()
        if all(not ticket.future.cancelled() and ticket.deadline > now for ticket in self._waiting):
            return
        kept: deque[Ticket] = deque()
        for ticket in self._waiting:
            if ticket.future.cancelled():
                continue
            if ticket.deadline > now:
                kept.append(ticket)
                continue
            with suppress(InvalidStateError):  # cancelled just now
                ticket.future.set_exception(make_deadline_error())
        self._waiting = kept

    def _run(self, tickets: list[Ticket]) -> None:
        live = [ticket for ticket in tickets if ticket.future.set_running_or_notify_cancel()]
        if not live:
            return
        self._busy_since = started = time.monotonic()
        try:
            results = live[0].work.run([t.item for t in live], [t.request for t in live])
        except Exception as error:  # whatever an engine raises, the queue goes on
            results = [error] * len(live)
        finally:
            self._busy_since = None
        self._observe(sum(t.size for t in live), started - live[0].since, time.monotonic() - started)
        for ticket, result in zip(live, results, strict=True):
            if isinstance(result, TrtFaceFusionError | Exception):
                ticket.future.set_exception(result)
            else:
                ticket.future.set_result(result)


def make_deadline_error() -> DeadlineError:
    """The answer is not ready in time."""
    return DeadlineError("the answer was not ready in time", "try again later, when less is asked of the service")
