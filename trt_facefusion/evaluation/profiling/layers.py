"""Times of layers, merged with what is known of them: the kernels of the engine, and the plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trt_facefusion.engine.backends.base import Kernel


@dataclass(frozen=True)
class Layer:
    """One layer of an engine and its mean time per inference.

    ``share`` is that of the times of all layers. ``precision`` is what the plan says of the node that multiplies most
    (None where the plan has none of ``nodes``), ``dtypes`` what the kernel really works on ("" where not known).
    """

    name: str
    type: str
    time_ms: float
    share: float
    precision: str | None
    dtypes: str
    nodes: tuple[str, ...]
    is_math: bool

    def as_dict(self) -> dict[str, Any]:
        """The layer as ``--json`` shows it."""
        return {**asdict(self), "nodes": list(self.nodes)}


def merge_layers(
    times_ms: Mapping[str, float],
    kernels: Iterable[Kernel],
    plan: Sequence[Mapping[str, Any]],
    math_types: Collection[str],
) -> tuple[Layer, ...]:
    """The layers, slowest first.

    ``times_ms`` names them as ``kernels`` do, ``plan`` holds the rows of a plan, and ``math_types`` are the kernel
    types that multiply and add, of the backend.
    """
    by_name = {kernel.name: kernel for kernel in kernels}
    rows = {str(row["name"]): row for row in plan}
    total = sum(times_ms.values()) or 1.0
    timed = [
        _describe_layer(name, by_name.get(name, Kernel(name, "")), time_ms, time_ms / total, rows, math_types)
        for name, time_ms in times_ms.items()
    ]
    return tuple(sorted(timed, key=lambda layer: -layer.time_ms))


def share_by_precision(layers: Iterable[Layer]) -> dict[str, float]:
    """Share of the time by planned precision, largest first; ``-`` is what the plan does not speak of."""
    shares: dict[str, float] = {}
    for layer in layers:
        key = layer.precision or "-"
        shares[key] = shares.get(key, 0.0) + layer.share
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


def _describe_layer(
    name: str,
    kernel: Kernel,
    time_ms: float,
    share: float,
    rows: Mapping[str, Mapping[str, Any]],
    math_types: Collection[str],
) -> Layer:
    planned = [rows[node] for node in kernel.nodes if node in rows]
    chief = max(planned, key=lambda row: row.get("macs", 0), default=None)
    precision = None if chief is None else str(chief["precision"])
    dtypes = kernel.dtypes if kernel.inputs or kernel.outputs else ""
    return Layer(name, kernel.type, time_ms, share, precision, dtypes, kernel.nodes, kernel.is_math(math_types))
