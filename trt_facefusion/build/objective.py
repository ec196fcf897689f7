"""What the plan search of a build makes least of: asked for by name, or chosen by what the backend can say."""

from __future__ import annotations

from trt_facefusion.errors import BadInputError

AUTO, MACS, SIZE = "auto", "macs", "size"
OBJECTIVES = (AUTO, MACS, SIZE)


def choose_objective(name: str) -> str:
    """The objective called ``name``, with ``auto`` decided.

    Raises:
        BadInputError: there is no such objective.
    """
    if name not in OBJECTIVES:
        raise BadInputError(f"there is no objective {name!r:.40}", f"use one of {', '.join(OBJECTIVES)}")
    return MACS if name == AUTO else name
