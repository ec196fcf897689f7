"""How much one request, and all of them together, may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceLimits:
    """Bounds of the service; what is beyond them is refused with a reason, before it costs anything."""

    upload_bytes: int = 20 << 20
    """Of one photo."""
    request_bytes: int = 64 << 20
    """Of one request's body."""
    held_bytes: int = 512 << 20
    """Of all bodies that are in memory at the same time."""
    photo_pixels: int = 24_000_000
    """Of one photo, read from its header."""
    held_pixels: int = 192_000_000
    """Of all photos that are decoded at the same time; further requests wait."""
    source_photos: int = 8
    faces: int = 32
    """Of one photo that are swapped."""
    header_bytes: int = 16 << 10
    connections: int = 512
    requests: int = 64
    """At work or waiting at the same time."""
    receive_s: float = 30.0
    """From the first byte of a request to its last."""
    deadline_s: float = 30.0
    """From the last byte of a request to its answer."""
    drain_s: float = 30.0
    """For what is at work when the service is told to stop."""
    hang_s: float = 120.0
    """One inference that takes longer than this makes the service unhealthy, so that it is started anew."""


@dataclass(frozen=True)
class Pace:
    """How work is spread: ``threads`` prepare and finish photos; a face waits at most ``max_wait_s`` for company."""

    threads: int = 2
    max_wait_s: float = 0.005
