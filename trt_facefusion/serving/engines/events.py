"""What happens to engines and rollouts, told to whoever keeps logs. Nothing of a photo or a request is in it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass


class EventKind(str, enum.Enum):
    """What happened; a face is disputed that no engine gave a sound picture of."""

    ENGINE_OUT = "engine_out"
    ENGINE_BACK = "engine_back"
    PROBE_FAILED = "probe_failed"
    FACE_BROKEN = "face_broken"
    FACE_DISPUTED = "face_disputed"
    FILE_CHANGED = "file_changed"
    ROLLOUT_BEGUN = "rollout_begun"
    STEP_TAKEN = "step_taken"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    STATE_UNWRITTEN = "state_unwritten"


@dataclass(frozen=True)
class ServingEvent:
    """One event: the label of the engine that it is about, and a sentence."""

    kind: EventKind
    engine: str
    message: str


OnEvent = Callable[[ServingEvent], None]
"""Takes events, from any thread; must be quick."""


def drop_event(event: ServingEvent) -> None:
    """The taker of events that keeps none."""


def tell(on_event: OnEvent, kind: EventKind, engine: str, message: str) -> None:
    """Tell of an event; a taker that fails takes no engine along."""
    with suppress(Exception):
        on_event(ServingEvent(kind, engine, message))
