"""What is known of a generator's numbers that neither its graph nor a few faces show."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_HEADROOM = 1024.0
"""Beyond it nothing is left that FP16 could hold."""


@dataclass(frozen=True)
class PlanHint:
    """Nodes of ``roles`` (`model.graph.roles.Role`, by their names) are planned in FP32; ``because`` says why.

    ``fp16_headroom``: values that come within this factor of FP16's limit on the calibration faces are FP32, in place
    of the usual factor (`quantization.precision.ranges.RANGE_MARGIN`) where that is smaller.
    """

    because: str
    roles: tuple[str, ...] = ()
    fp16_headroom: float | None = None
