"""What a build leaves for its report: figures as JSON, and the pictures of a few faces."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion import __version__
from trt_facefusion.build.gallery import Gallery
from trt_facefusion.build.report_facts import RunFacts, SearchFacts, check_pictures, read_facts
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.errors import StoreError
from trt_facefusion.faces.faceset import KINDS
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.noise import compute_clipped_share, compute_sqnr_db
from trt_facefusion.quantization.correction.channel_affine import name_equalised
from trt_facefusion.storage.arrays import read_npz
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.files import make_store_error
from trt_facefusion.types import Precision

SCHEMA = 1
FACTS, PICTURES, SEARCH = "run.json", "pictures.npz", "search.json"
SHOWN_TENSORS = 12
_SHOWN_BINS = 128
_LARGEST_PICTURES = 768 << 20
_REMEDY = "Name a folder that a build wrote (reports/MODEL/TIME), or build again with --force."


@dataclass(frozen=True)
class RunRecord:
    """One build: ``facts`` is plain JSON, ``pictures`` [N,S,S,3] uint8 by name (`Gallery`)."""

    facts: Mapping[str, Any]
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """The record as files, name -> content."""
        packed = io.BytesIO()
        np.savez_compressed(packed, **dict(self.pictures))  # type: ignore[arg-type]
        text = json.dumps({"schema": SCHEMA, **self.facts}, indent=1, allow_nan=False) + "\n"
        return {FACTS: text.encode(), PICTURES: packed.getvalue()}

    @cached_property
    def shown(self) -> RunFacts:
        """The facts as a reader of the record's files finds them."""
        return read_facts(json.loads(json.dumps(self.facts)))

    @classmethod
    def load(cls, folder: Path) -> RunRecord:
        """Read what `files` wrote into ``folder``.

        Raises:
            StoreError: no record there, a damaged one, or one of another schema.
        """
        file = folder / FACTS
        try:
            facts = parse_json(read_bytes(file))
            if not isinstance(facts, dict) or facts.pop("schema", None) != SCHEMA:
                raise StoreError(f"{file}: it is a record of another version of this tool.", _REMEDY)
            known = read_facts(facts)
            file = folder / PICTURES
            pictures = read_npz(file, _LARGEST_PICTURES)
            check_pictures(known, pictures)
        except DocumentError as error:
            raise StoreError(f"{file}: {error}.", _REMEDY) from error
        except OSError as error:
            raise StoreError(f"{file} cannot be read: {error.strerror or error}.", _REMEDY) from error
        return cls(facts, pictures)


def record_build(stages: Stages, gallery: Gallery, engines: list[dict[str, Any]], seconds: float) -> RunRecord:
    """The record of a build that made at least one engine; ``engines`` describes each request's outcome."""
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
        "tensors": tensor_facts(stages.choose_ranges(), list(dict.fromkeys(int8)), inputs.view) if int8 else [],
        "limits": {p.value: inputs.settings.gate(p).on_figures() for p in Precision},
        "swaps": inputs.network.preset.swaps,
        "gallery": {"faces": gallery.faces, "worst": gallery.worst, "ssim_drop": gallery.ssim_drop},
    }
    return RunRecord(facts, gallery.pictures)


def read_search(folder: Path) -> dict[str, Any] | None:
    """What the plan search left in an engine's folder; None where the plan was not searched for.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / SEARCH
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = parse_json(read_bytes(path))
        decode(SearchFacts, found, "search", lenient=True)
    except DocumentError as error:
        raise StoreError(f"{path}: {error}.", "Build the engine again with --force.") from error
    except OSError as error:
        raise make_store_error(error, path, "read") from error
    return found


def tensor_facts(ranges: Ranges, nodes: Sequence[str], view: GraphView) -> list[dict[str, Any]]:
    """The activations that ``nodes`` read in INT8, the noisiest first: histogram, amax, SQNR and clipped share.

    A calibration table that the user named has no histograms, and gives nothing.
    """
    histograms = ranges.histograms
    found: dict[str, dict[str, Any]] = {}
    for node in nodes:
        tensor = view.nodes[node].input[0]
        name = name_equalised(tensor) if tensor in ranges.affines else ranges.aliases.get(tensor, tensor)
        if name in found:
            found[name]["readers"].append(node)
        elif name in histograms and name in ranges.table:
            histogram, amax = histograms[name], ranges.table[name]
            found[name] = {
                "name": tensor,
                "readers": [node],
                "amax": amax,
                "limit": histogram.bin_width * len(histogram.counts),
                "counts": histogram.counts.reshape(_SHOWN_BINS, -1).sum(1).tolist(),
                "sqnr_db": compute_sqnr_db(histogram, amax),
                "clipped": compute_clipped_share(histogram, amax),
            }
    return sorted(found.values(), key=lambda tensor: float(tensor["sqnr_db"]))[:SHOWN_TENSORS]
