"""What a build tells the person who waits, and the warnings that its manifests keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trt_facefusion.types import Precision, Progress, silent

Note = Callable[[str], None]
"""Takes one message for the person who waits."""


def drop_note(message: str) -> None:
    """The note callback that shows nothing."""
    del message


@dataclass
class Reporter:
    """Progress and messages of one build."""

    progress: Progress = silent
    note: Note = drop_note
    _warnings: list[tuple[Precision | None, str]] = field(default_factory=list)

    def warn(self, message: str, precision: Precision | None = None) -> None:
        """Tell the person now, and the manifest later: that of one precision, or every one."""
        self._warnings.append((precision, message))
        self.note(f"warning: {message}")

    def list_warnings(self, precision: Precision) -> tuple[str, ...]:
        """What the manifest of ``precision`` should warn of."""
        return tuple(message for about, message in self._warnings if about in {None, precision})
