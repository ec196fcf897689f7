"""Picking a few of many, evenly: faces to try things on, photos to measure with, members to show."""

from __future__ import annotations

import numpy as np


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` of the indices of ``count`` things, evenly spread and rising."""
    return sorted(set(np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist()))
