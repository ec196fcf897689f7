"""A rollout while a service runs: decided upon at once in memory, shared through its file within half a second.

The file is the truth between processes. Each adds what it has seen since the last time to what the file says, and
takes over what others, or a person, decided there. Where the file cannot be written (a full disk), the service goes on
by what it knows, says so, and writes as soon as it can.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from trt_facefusion.errors import StoreError
from trt_facefusion.serving.engines.events import EventKind, OnEvent, drop_event, tell
from trt_facefusion.serving.engines.rollout import (
    Phase,
    Rollout,
    RolloutObservations,
    RolloutPlan,
    advance,
    begin,
    decide,
    resume,
)
from trt_facefusion.serving.engines.rollout_file import RolloutFile
from trt_facefusion.serving.engines.shares import write_share

_KINDS = {Phase.ROLLED_BACK.value: EventKind.ROLLED_BACK, Phase.PROMOTED.value: EventKind.PROMOTED}


class RolloutKeeper:
    """The rollout of one candidate against one baseline.

    Args:
        file: where it is kept.
        key: digests of candidate and baseline.
        labels: what they are called.
        plan: what was asked for.
        on_event: is told of decisions.
        now: seconds since 1970.

    Raises:
        StoreError: the file is damaged, or cannot be written.
    """

    def __init__(
        self,
        file: RolloutFile,
        key: tuple[str, str],
        labels: tuple[str, str],
        plan: RolloutPlan,
        on_event: OnEvent = drop_event,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._file, self._plan, self._on_event, self._now = file, plan, on_event, now
        self._lock, self._syncing = threading.RLock(), threading.Lock()
        self._pending = RolloutObservations()
        self._told_fault = ""
        self._yielded = False

        def take_over(stored: Rollout | None) -> Rollout:
            if stored is None or stored.key != key:
                return begin(key, labels, plan, now())
            return resume(stored, plan, now())

        rollout = file.update(take_over)
        assert rollout is not None
        self._rollout = self._synced = rollout
        self._signature = file.signature
        self._tell(
            EventKind.ROLLOUT_BEGUN,
            f"{rollout.phase.replace('_', ' ')}, {write_share(rollout.share)} of requests: {rollout.reason}",
        )

    @property
    def rollout(self) -> Rollout:
        """What is known and decided now; from any thread."""
        return self._rollout

    def observe(self, seen: RolloutObservations) -> None:
        """Add what was seen, and decide; writes no file."""
        with self._lock:
            self._pending += seen
            self._adopt(advance(self._rollout, seen, self._now()))

    def sync(self) -> None:
        """Exchange with the file what there is to exchange, and take the steps that time asks for."""
        self.observe(RolloutObservations())
        changed = self._file.signature != self._signature
        if not changed and not self._pending and self._rollout is self._synced:
            return
        with self._syncing:
            try:
                self._exchange()
            except StoreError as error:
                if error.message != self._told_fault:
                    self._told_fault = error.message
                    self._tell(EventKind.STATE_UNWRITTEN, f"the rollout is kept in memory only: {error.message}")

    def _exchange(self) -> None:
        with self._lock:
            pending, decided, self._pending = self._pending, self._rollout, RolloutObservations()
        try:
            written = self._file.update(lambda stored: self._merge(stored, pending, decided), self._synced)
        except StoreError:
            with self._lock:  # what keeps failing must not grow
                self._pending = (pending + self._pending).keep_last(self._plan.budget.window)
            raise
        with self._lock:
            self._told_fault, self._signature = "", self._file.signature
            self._synced = self._rollout if written is None else written
            if written is not None:
                self._adopt(advance(written, self._pending, self._now()))

    def _merge(self, stored: Rollout | None, pending: RolloutObservations, decided: Rollout) -> Rollout | None:
        """What the file is to hold; None where another service has made it its own."""
        if stored is None:
            return decided
        if stored.key != decided.key:
            self._yield()
            return None
        if stored.revision == self._synced.revision:
            return decided
        now = self._now()
        merged = advance(replace(stored, plan=self._plan), pending, now)
        both_run = merged.phase == self._synced.phase == Phase.RUNNING.value
        if both_run and decided.phase != Phase.RUNNING.value:  # decided here, while others wrote
            return decide(merged, Phase(decided.phase), decided.reason, now)
        return merged

    def _adopt(self, rollout: Rollout) -> None:
        before, self._rollout = self._rollout, rollout
        if rollout.phase != before.phase:
            kind = _KINDS.get(rollout.phase, EventKind.ROLLOUT_BEGUN)
            self._tell(kind, f"{rollout.phase.replace('_', ' ')}: {rollout.reason}")
        elif rollout.share != before.share:
            self._tell(EventKind.STEP_TAKEN, f"{write_share(rollout.share)} of requests: {rollout.reason}")

    def _yield(self) -> None:
        if not self._yielded:
            self._yielded = True
            message = f"{self._file.path.name} now holds another rollout: this one is kept in memory only"
            self._tell(EventKind.STATE_UNWRITTEN, message)

    def _tell(self, kind: EventKind, message: str) -> None:
        tell(self._on_event, kind, self._rollout.candidate_label, f"{self._rollout.candidate_label}: {message}")
