"""What the doctor finds: one sentence, how bad it is, and the commands that help."""

from __future__ import annotations

from dataclasses import dataclass

PROBLEM, WARNING, ADVICE = "problem", "warning", "advice"
"""A build fails by default; something is wrong or untested; something could be better."""


@dataclass(frozen=True)
class Finding:
    """``level`` is one of PROBLEM, WARNING and ADVICE; ``commands`` are for a shell."""

    level: str
    text: str
    commands: tuple[str, ...] = ()
