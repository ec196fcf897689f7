"""Reads the trace that ONNX Runtime's own profiler writes (Chrome's trace format, one JSON list of events)."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_facefusion.errors import ModelError

_KERNEL = "_kernel_time"
_RUN = "model_run"
_EXECUTE = "SequentialExecutor::Execute"


@dataclass(frozen=True)
class Trace:
    """Means of the runs that count: ``node_ms`` by node, and for every run how long the graph itself took."""

    node_ms: dict[str, float]
    node_types: dict[str, str]
    runs_ms: tuple[float, ...]


def read_trace(path: Path, skip: int = 0) -> Trace:
    """The trace without its first ``skip`` runs.

    Raises:
        ModelError: the file is no such trace, or holds no run that counts.
    """
    try:
        events = json.loads(path.read_bytes())
        return _sum_events(events, skip)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"ONNX Runtime's trace {path} cannot be read: {error}",
            "Check that the disk is not full; with a large model, profile fewer --rounds.",
        ) from error


def _sum_events(events: list[dict[str, Any]], skip: int) -> Trace:
    runs = sorted((event for event in events if event.get("name") == _RUN), key=lambda event: event["ts"])
    if len(runs) <= skip:
        raise ValueError(f"it holds {len(runs)} runs, of which {skip} do not count")
    start = runs[skip]["ts"]
    counted = [event for event in events if event.get("ph", "X") == "X" and event["ts"] >= start]
    times: dict[str, float] = defaultdict(float)
    types: dict[str, str] = {}
    for event in counted:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            name = event["name"].removesuffix(_KERNEL)
            times[name] += event["dur"] / 1e3
            types[name] = str(event["args"].get("op_name", ""))
    count = len(runs) - skip
    inside = [event for event in counted if event["name"] == _EXECUTE]
    if len(inside) != count:  # another executor: the whole run, with the binding of inputs and outputs
        inside = runs[skip:]
    inside = sorted(inside, key=lambda event: event["ts"])
    return Trace({n: t / count for n, t in times.items()}, types, tuple(event["dur"] / 1e3 for event in inside))
