"""The corrections that there are, by the names that a user gives them."""

from __future__ import annotations

from trt_facefusion.errors import BadInputError

CHANNEL_CORRECTIONS = ("equalise", "shift")
"""Corrections of channels, in front of the quantiser; each one includes those before it."""
LAYER_CORRECTIONS = ("scales", "rounding", "bias")
"""Corrections of a layer's weights and bias."""


def parse_corrections(text: str) -> frozenset[str] | None:
    """The corrections that ``text`` names (``shift,bias`` or ``none``); None for ``auto``. A shift needs ``equalise``.

    Raises:
        BadInputError: there is no such correction.
    """
    if text == "auto":
        return None
    names = frozenset(part.strip() for part in text.split(",") if part.strip()) - {"none"}
    unknown = sorted(names - {*CHANNEL_CORRECTIONS, *LAYER_CORRECTIONS})
    if unknown or not text.strip():
        raise BadInputError(
            f"there is no correction {', '.join(unknown) or text!r}",
            f"use auto, none, or some of {', '.join((*CHANNEL_CORRECTIONS, *LAYER_CORRECTIONS))}, with commas between",
        )
    return names | ({"equalise"} if "shift" in names else frozenset())
