"""Lines about lists of names."""

from __future__ import annotations

from trt_facefusion.cli import console

_SHOWN = 10


def count_names(what: str, names: tuple[str, ...] | list[str]) -> str:
    """How many ``names`` there are of ``what``, and the first of them; nothing where there are none."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}" if names else ""


def print_lines(*lines: str) -> None:
    """Each line that is not empty."""
    for line in lines:
        if line:
            console.line(line)
