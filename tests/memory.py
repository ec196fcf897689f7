"""What a process has had of memory at most.

``getrusage`` will not do: its ``ru_maxrss`` outlives ``exec``, so that a child starts with the peak of the process that
started it (man 2 getrusage; ``setmax_mm_hiwater_rss`` in Linux's fs/exec.c). ``VmHWM`` belongs to the image that runs.
"""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """The most resident memory since this process began or :func:`forget_peak`, in bytes."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(fields["VmHWM"].removesuffix("kB")) << 10


def forget_peak() -> int:
    """Begin :func:`peak_bytes` anew, with what is resident now; returns that, in bytes."""
    _CLEAR_REFS.write_text("5")
    return peak_bytes()
