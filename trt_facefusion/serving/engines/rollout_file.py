"""The file that a rollout survives a restart in: one JSON document, written whole, read strictly, changed under a lock.

Services and people change it the same way: read, change, write, under the operating system's lock, which ends with its
process. So several services may share one, and what `trt-ff canary` decides is simply what the file says next.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from trt_facefusion.errors import StoreError
from trt_facefusion.serving.engines.rollout import SCHEMA, Phase, Rollout
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.files import make_store_error, write_atomic
from trt_facefusion.storage.leftovers import locks_work, tell_weaker

NAME = "canary.json"
OPTION = "--canary-state"
LARGEST_WINDOW = 10_000
_LARGEST_BYTES = 4 << 20
_PATIENCE_S = 10.0
_REMEDY = "move that file away: the rollout then begins anew, at its first share"


class RolloutFile:
    """The file of one rollout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._threads = threading.Lock()
        self._has_locks: bool | None = None

    @property
    def signature(self) -> tuple[int, int, int] | None:
        """Changes whenever somebody writes the file; None where there is none."""
        with suppress(OSError):
            status = self.path.stat()
            return status.st_ino, status.st_size, status.st_mtime_ns
        return None

    def read(self) -> Rollout | None:
        """What it holds; None where there is no such file.

        Raises:
            StoreError: it cannot be read, or is damaged; the message names the field.
        """
        try:
            document = parse_json(read_bytes(self.path, _LARGEST_BYTES))
            schema = document.get("schema") if isinstance(document, dict) else None
            if schema != SCHEMA or isinstance(schema, bool):
                raise DocumentError(f"it has the schema {schema!r:.40}, this version reads {SCHEMA}")
            rollout = decode(Rollout, document, "rollout")
            _check(rollout)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise make_store_error(error, self.path, "read", OPTION) from error
        except DocumentError as error:
            raise StoreError(f"{self.path} is damaged: {error}", _REMEDY) from error
        return rollout

    def update(
        self, change: Callable[[Rollout | None], Rollout | None], instead: Rollout | None = None
    ) -> Rollout | None:
        """Write what ``change`` makes of what the file holds, unless that is None; gives what was written.

        ``instead`` takes the place of what a damaged file holds.

        Raises:
            StoreError: as `read`, or it cannot be written; what was there before is as it was.
        """
        with self._locked():
            before = self._read_or(instead)
            after = change(before)
            if after is None:
                return None
            after = dataclasses.replace(after, revision=(0 if before is None else before.revision) + 1)
            self._write(after)
            return after

    def _read_or(self, instead: Rollout | None) -> Rollout | None:
        try:
            return self.read()
        except StoreError as error:
            if instead is None or not isinstance(error.__cause__, DocumentError):
                raise
            return instead

    def _write(self, rollout: Rollout) -> None:
        text = json.dumps(dataclasses.asdict(rollout), indent=1, allow_nan=False)
        write_atomic(self.path, text.encode() + b"\n", option=OPTION)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the file, also against other threads of this process."""
        path = self.path.with_name(f".lock-{self.path.name}")
        with self._threads:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if self._has_locks is None:
                    self._has_locks = locks_work(path.parent)
                if not self._has_locks:
                    tell_weaker(f"{path.parent} has no locks: one service alone may keep its rollout there")
                    yield
                    return
                lock = FileLock(path, timeout=_PATIENCE_S, thread_local=False)
                lock.acquire(poll_interval=0.02)
            except Timeout as error:
                raise StoreError(
                    f"{self.path} is held by another process for more than {_PATIENCE_S:.0f} s",
                    "end the process that hangs, or keep the rollout elsewhere with --canary-state FILE",
                ) from error
            except OSError as error:
                raise make_store_error(error, path, option=OPTION) from error
            try:
                yield
            finally:
                lock.release()


def _check(rollout: Rollout) -> None:
    """Raise DocumentError for values of the right type that no rollout has."""
    plan, counts = rollout.plan, (rollout.step, rollout.comparisons, rollout.faces, rollout.faults, rollout.revision)
    shares = (rollout.share, plan.share, *plan.schedule.steps)
    rules = {
        "phase": rollout.phase in {phase.value for phase in Phase},
        "share": all(0 <= share <= 1 for share in shares),
        "counts": min(*counts, rollout.step_comparisons, *rollout.fault_marks, plan.schedule.comparisons) >= 0,
        "step": rollout.step <= len(plan.schedule.steps),
        "plan.budget.window": 1 <= plan.budget.window <= LARGEST_WINDOW,
        "window": len(rollout.window) <= LARGEST_WINDOW and len(rollout.fault_marks) <= LARGEST_WINDOW,
        "step_began": math.isfinite(rollout.step_began),
    }
    wrong = [name for name, holds in rules.items() if not holds]
    if wrong:
        raise DocumentError(f"rollout.{wrong[0]} holds what no rollout has")
