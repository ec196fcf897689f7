"""Ctrl-C while C++ is at work.

A signal handler that raises does so in whatever Python code runs next. During a build that is a callback of the
library, whose bindings print the exception and drop it: the build would go on as if nothing had happened.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interrupt:
    """Whether a signal came that wants to stop the work."""

    signum: int | None = None


@contextmanager
def defer_interrupts() -> Iterator[Interrupt]:
    """Note SIGINT and SIGTERM instead of handling them, and handle the first one when the block ends.

    The block has to look at the result and to end soon. Signals without a Python handler keep their effect; outside the
    main thread, which alone gets signals, nothing is changed.
    """
    interrupt = Interrupt()
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    callables = {number: handler for number, handler in previous.items() if callable(handler)}

    def note(signum: int, frame: FrameType | None) -> None:
        interrupt.signum = interrupt.signum or signum

    try:
        for number in callables:
            signal.signal(number, note)
    except ValueError:  # not the main thread
        yield interrupt
        return
    try:
        yield interrupt
    finally:
        for number, handler in callables.items():
            signal.signal(number, handler)
        if interrupt.signum is not None:
            callables[signal.Signals(interrupt.signum)](interrupt.signum, None)
