"""Decoded photos are large whatever their files were: all together get so many pixels, and who comes then waits."""

from __future__ import annotations

import threading
import time

from trt_facefusion.serving.batching import make_deadline_error
from trt_facefusion.serving.problems import ClientGoneError


class PixelBudget:
    """``pixels`` for all requests; from any thread."""

    def __init__(self, pixels: int) -> None:
        self.pixels, self.held = pixels, 0
        self._changed = threading.Condition()

    def open(self) -> PixelHold:
        """What one request holds: nothing yet."""
        return PixelHold(self)

    def _change(self, by: int) -> None:
        with self._changed:
            self.held += by
            self._changed.notify_all()


class PixelHold:
    """What one request holds of a budget."""

    def __init__(self, budget: PixelBudget) -> None:
        self._budget, self._held, self._ended = budget, 0, False

    def take(self, pixels: int, deadline: float) -> None:
        """Wait until ``pixels`` more are free; a request with more than there are gets them when it is alone.

        Raises:
            DeadlineError: that took until ``deadline`` (of `time.monotonic`).
            ClientGoneError: the hold was ended meanwhile.
        """
        budget = self._budget
        with budget._changed:
            while budget.held and budget.held + pixels > budget.pixels and not self._ended:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise make_deadline_error()
                budget._changed.wait(left_s)
            if self._ended:
                raise ClientGoneError("nobody waits for this any more", "send it again")
            budget.held += pixels
            self._held += pixels

    def end(self) -> None:
        """Give everything back; a thread that waits in `take` is woken."""
        with self._budget._changed:
            self._ended = True
            held, self._held = self._held, 0
        self._budget._change(-held)
