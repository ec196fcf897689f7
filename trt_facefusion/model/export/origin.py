"""Where a model was read from, as far as it tells two models of one name apart."""

from __future__ import annotations

import os

from trt_facefusion.model.export.source import ModelSource, OnnxSource, hash_parts
from trt_facefusion.model.export.torch_source import CheckpointSource


def identify_origin(source: ModelSource) -> str:
    """Tells where a model was read from, as a digest: a file that is exported again keeps it, namesakes differ."""
    if not isinstance(source, OnnxSource | CheckpointSource):
        return "bundled"
    network = f"{source.factory} {source.weights_key or ''}" if isinstance(source, CheckpointSource) else ""
    place = source.path.parent.resolve() / source.path.name  # not the file's own link: a hub's leads to another version
    return hash_parts(os.fsencode(place), network.encode())[:16]
