"""Whether an engine serves: what takes it out, and when it is tried again. No clock, thread or engine of its own.

One broken picture takes no engine out: single faces come out broken of engines that are right. An engine that fails
(raises, hangs) is out at once, and so is one whose pictures are broken, where a safer engine's were not, above a share
of its last faces. A picture that is broken whichever engine makes it says nothing against any of them, so nobody drives
engines out by uploading such faces; but an engine that gave nothing else for a while is suspect, and is tried with the
probe.

An engine that is out is tried again after a back-off that doubles each time and is forgotten once a whole window of its
pictures was sound.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


class Health(str, enum.Enum):
    """How an engine is."""

    SERVING = "serving"
    OUT = "out"
    PROBING = "probing"


class PictureOutcome(str, enum.Enum):
    """What became of a picture: ``disputed`` where no engine gave a sound one."""

    SOUND = "sound"
    BROKEN = "broken"
    DISPUTED = "disputed"


@dataclass(frozen=True)
class HealthRules:
    """When an engine is taken out, and for how long.

    Of its last ``window`` faces at most the share ``most_broken`` may be broken, once there are ``least``; it is tried
    again after ``first_retry_s`` seconds, then after twice as long each time, up to ``longest_retry_s``.
    """

    window: int = 50
    least: int = 10
    most_broken: float = 0.2
    first_retry_s: float = 5.0
    longest_retry_s: float = 600.0


class EngineHealth:
    """The health of one engine; times are seconds of any one clock that never goes back."""

    def __init__(self, rules: HealthRules) -> None:
        self.rules = rules
        self.state = Health.SERVING
        self.reason: str | None = None
        self._retry_at = 0.0
        self._failures = 0
        self._recent: deque[PictureOutcome] = deque(maxlen=rules.window)

    def record(self, outcomes: Iterable[PictureOutcome]) -> str | None:
        """Count pictures; why the engine has to be taken out, or None. Those of an engine that is out do not count."""
        if self.state is not Health.SERVING:
            return None
        self._recent.extend(outcomes)
        faces, broken = len(self._recent), self._recent.count(PictureOutcome.BROKEN)
        if self._recent.count(PictureOutcome.SOUND) == self.rules.window:
            self._failures = 0
        if faces >= self.rules.least and broken > self.rules.most_broken * faces:
            return f"{broken} of its last {faces} pictures were broken"
        return None

    @property
    def is_suspect(self) -> bool:
        """Whether none of its last pictures was sound, of any engine: its own fault, or that of the faces."""
        return len(self._recent) >= self.rules.least and PictureOutcome.SOUND not in self._recent

    def clear_suspicion(self) -> None:
        """The probe was rendered well: the faces were at fault."""
        self._recent.clear()

    def take_out(self, reason: str, now: float) -> None:
        """The engine answers nothing until a probe succeeds."""
        rules = self.rules
        wait = min(rules.longest_retry_s, rules.first_retry_s * 2.0 ** min(self._failures, 30))
        self.state, self.reason, self._retry_at = Health.OUT, reason, now + wait
        self._failures += 1
        self._recent.clear()

    def is_due(self, now: float) -> bool:
        """Whether it is out, and the time has come to try it."""
        return self.state is Health.OUT and now >= self._retry_at

    def count_wait(self, now: float) -> float | None:
        """Seconds until it is tried again; None where it serves."""
        return None if self.state is Health.SERVING else max(0.0, self._retry_at - now)

    def begin_probe(self) -> None:
        """It is being tried: neither serving nor due."""
        self.state = Health.PROBING

    def bring_back(self) -> None:
        """The probe succeeded."""
        self.state, self.reason = Health.SERVING, None
        self._recent.clear()
