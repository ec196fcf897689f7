"""Which requests take part, and the words in which a rollout is asked for.

    --canary int8=5%                        a share of requests for the engine of that precision, or for PATH=5%
    --promote 25%,100%:1000                 later shares, each after 1,000 good comparisons
    --promote 25%,100%:30m                  ..., each after 30 minutes (s, m, h)

A request takes part by a hash of its id, so all its faces go the same way, also after a restart and in every process,
and those who took part in a smaller share take part in a larger one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.errors import BadInputError
from trt_facefusion.types import Precision

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")
_EVERY = re.compile(r"(\d{1,9})(s|m|h)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_CANARY_FORM = "write a precision or an engine's folder, and a share: --canary int8=5%"
_PROMOTE_FORM = (
    "write rising shares, and after how many good comparisons or how long each is taken: "
    "--promote 25%,100%:1000 or --promote 25%,100%:30m"
)


@dataclass(frozen=True)
class CanarySpec:
    """Which engine is the candidate, a precision of the model or a path, and its first share of requests, 0 to 1."""

    engine: Precision | Path
    share: float

    @property
    def precision(self) -> Precision | None:
        """The precision, where it names one."""
        return self.engine if isinstance(self.engine, Precision) else None


@dataclass(frozen=True)
class Schedule:
    """``steps`` are the shares that follow, rising; each is taken after ``comparisons`` good ones, or ``seconds``.

    A share of 1 promotes the candidate. Of the two limits one is 0.
    """

    steps: tuple[float, ...] = ()
    comparisons: int = 0
    seconds: float = 0.0


def takes_part(request: str, salt: str, share: float) -> bool:
    """Whether a request is in the share (0 to 1) that ``salt`` draws; another salt draws another one."""
    digest = hashlib.blake2b(f"{salt}\0{request}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def parse_share(text: str, option: str = "--shadow") -> float:
    """``5%`` as 0.05.

    Raises:
        BadInputError: it is no such share, or above 100 %.
    """
    match = _SHARE.fullmatch(text.strip())
    if match is None or float(match[1]) > 100:
        raise BadInputError(f"{option}: {text!r:.60} is no share from 0% to 100%", "write it like 5% or 0.5%")
    return float(match[1]) / 100


def write_share(share: float) -> str:
    """A share as `parse_share` reads it: 0.05 as ``5%``."""
    return f"{share * 100:.6g}%"


def parse_canary(text: str) -> CanarySpec:
    """What ``--canary`` says. A share of 0 % shows the candidate to nobody, and only compares.

    Raises:
        BadInputError: it names no engine, or no share.
    """
    name, equals, share = text.rpartition("=")
    if not equals or not name.strip():
        raise BadInputError(f"--canary {text!r:.80} does not say which engine gets which share", _CANARY_FORM)
    name = name.strip()
    known = {precision.value: precision for precision in Precision}
    return CanarySpec(known.get(name.lower(), Path(name)), parse_share(share, "--canary"))


def parse_schedule(text: str | None, share: float) -> Schedule:
    """What ``--promote`` says of a rollout that begins at ``share``, which it may name first; none without it.

    Raises:
        BadInputError: it is not of that form, or its shares do not rise.
    """
    if text is None:
        return Schedule()
    shares, colon, every = text.rpartition(":")
    match = _EVERY.fullmatch(every.strip())
    if not colon or match is None or int(match[1]) < 1:
        raise BadInputError(f"--promote {text!r:.80} does not say when each share is taken", _PROMOTE_FORM)
    steps = [parse_share(part, "--promote") for part in shares.split(",")]
    if len(steps) > 1 and steps[0] == share:
        steps = steps[1:]
    if any(before >= after for before, after in zip([share, *steps], steps, strict=False)):
        raise BadInputError(
            f"the shares of --promote {text!r:.80} do not rise from {write_share(share)}", _PROMOTE_FORM
        )
    if match[2] is None:
        return Schedule(tuple(steps), comparisons=int(match[1]))
    return Schedule(tuple(steps), seconds=int(match[1]) * _SECONDS[match[2]])
