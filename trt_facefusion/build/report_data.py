"""What a build leaves for its report: its engines, the tensors that cost most, and pictures of a few faces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from trt_facefusion import __version__
from trt_facefusion.build.gallery import Gallery
from trt_facefusion.build.run_record import RunRecord, read_search
from trt_facefusion.build.speed import PredictedSpeed
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.stored_engines import EngineResult
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.faces.faceset import KINDS
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.noise import compute_clipped_share, compute_sqnr_db
from trt_facefusion.quantization.correction.channel_affine import name_equalised
from trt_facefusion.quantization.precision import read_rows
from trt_facefusion.types import Precision

SHOWN_TENSORS = 12
_SHOWN_BINS = 128


def record_build(
    stages: Stages,
    gallery: Gallery,
    results: Sequence[EngineResult],
    seconds: float,
    speed: PredictedSpeed | None = None,
) -> RunRecord:
    """The record of a build that made at least one engine; ``results`` are those of all its requests."""
    engines = [_describe_engine(engine) for engine in results]
    inputs = stages.inputs
    faces, selection = inputs.faces, inputs.job.selection
    int8 = [row["name"] for engine in engines for row in engine["plan"] if row["precision"] == Precision.INT8.value]
    facts = {
        "model": inputs.settings.source.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": seconds,
        "tool_version": __version__,
        "backend": f"{selection.backend.name} {selection.backend.version()}",
        "target": selection.target,
        "reason": selection.reason,
        "faces": {"calibration": len(faces.calibration), "verification": len(faces.verification)},
        "skipped": {KINDS[kind]: count for kind, count in faces.calibration.count_skipped().items()},
        "engines": engines,
        "tensors": describe_tensors(stages.choose_ranges(), list(dict.fromkeys(int8)), inputs.view) if int8 else [],
        "limits": {p.value: inputs.settings.choose_gate(p).on_figures() for p in Precision},
        "predicted": None if speed is None else speed.as_dict(),
        "swaps": inputs.network.preset.swaps,
        "gallery": {"faces": gallery.faces, "worst": gallery.worst, "ssim_drop": gallery.ssim_drop},
    }
    return RunRecord(facts, gallery.pictures)


def _describe_engine(engine: EngineResult) -> dict[str, Any]:
    """The outcome of one request: its manifest, its plan, and what the plan search measured."""
    return {
        "requested": engine.requested.value,
        "up_to_date": engine.up_to_date,
        "folder": str(engine.folder),
        "manifest": json.loads(engine.manifest.to_json()),
        "plan": read_rows(engine.folder / "plan.yaml"),
        "search": read_search(engine.folder),
    }


def describe_tensors(ranges: Ranges, nodes: Sequence[str], view: GraphView) -> list[dict[str, Any]]:
    """The activations that ``nodes`` read in INT8, the noisiest first: histogram, amax, SQNR and clipped share.

    A calibration table that the user named has no histograms, and gives nothing.
    """
    histograms = ranges.histograms
    tensors: dict[str, dict[str, Any]] = {}
    for node in nodes:
        tensor = view.nodes[node].input[0]
        name = name_equalised(tensor) if tensor in ranges.affines else ranges.aliases.get(tensor, tensor)
        if name in tensors:
            tensors[name]["readers"].append(node)
        elif name in histograms and name in ranges.table:
            histogram, amax = histograms[name], ranges.table[name]
            tensors[name] = {
                "name": tensor,
                "readers": [node],
                "amax": amax,
                "limit": histogram.bin_width * len(histogram.counts),
                "counts": histogram.counts.reshape(_SHOWN_BINS, -1).sum(1).tolist(),
                "sqnr_db": compute_sqnr_db(histogram, amax),
                "clipped": compute_clipped_share(histogram, amax),
            }
    return sorted(tensors.values(), key=lambda tensor: float(tensor["sqnr_db"]))[:SHOWN_TENSORS]
