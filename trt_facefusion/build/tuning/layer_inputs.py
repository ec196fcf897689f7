"""What INT8 layers read on calibration faces: on which of them, and how much of it at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from trt_facefusion.build.effort import FULL
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.collect import open_tapped_session, run_batch
from trt_facefusion.quantization.correction.rounding import MAX_COLUMNS
from trt_facefusion.quantization.correction.weight_correction import CorrectableLayer
from trt_facefusion.sampling import spread
from trt_facefusion.types import Array

_ROUNDING_BYTES = 1 << 30
"""Covariances that are held at a time; more take more passes over the faces."""
_INPUTS_BYTES = 1 << 30
"""Inputs of layers that leave the network at a time; more take more passes over the faces."""


def run_layer_inputs(
    inputs: BuildInputs, view: GraphView, layers: Mapping[str, CorrectableLayer], count: int, stage: str
) -> Iterator[Mapping[str, Array]]:
    """Run ``count`` calibration faces through ``view``; gives what ``layers`` of it read, in FP32, batch by batch."""
    faces = inputs.faces.calibration
    feeder = inputs.network.make_feeder(faces)
    indices = choose_correcting_faces(len(faces), count, inputs.level.validation_faces)
    names = list(dict.fromkeys(layer.node.input[0] for layer in layers.values()))
    fed = [name for name in names if name in view.input_names]
    tapped = [name for name in names if name not in fed]
    session = open_tapped_session(view.model, tapped, None)
    size = inputs.network.smallest_batch
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        yield run_batch(session, fed, tapped, feeder(part))
        inputs.reporter.progress(stage, start + len(part), len(indices))


def choose_correcting_faces(count: int, limit: int, tried_on: int = FULL.validation_faces) -> list[int]:
    """At most ``limit`` of ``count`` faces, none of which corrections are tried on, where there are enough for that."""
    tried = set(spread(count, tried_on))
    untried = [index for index in range(count) if index not in tried]
    pool = untried if len(untried) >= tried_on else list(range(count))
    return [pool[index] for index in spread(len(pool), limit)]


def group_by_inputs(view: GraphView, names: Sequence[str], batch: int, most: int = _INPUTS_BYTES) -> list[list[str]]:
    """``names`` of layers in groups: the inputs of each, for ``batch`` faces, take ``most`` bytes or are one tensor."""
    groups: list[list[str]] = []
    tensors: set[str] = set()
    held = 0
    for name in names:
        tensor = view.nodes[name].input[0]
        size = 0 if tensor in tensors else 4 * batch * view.per_sample(tensor)
        if not groups or (size and held + size > most):
            groups.append([])
            tensors, held, size = set(), 0, 4 * batch * view.per_sample(tensor)
        groups[-1].append(name)
        tensors.add(tensor)
        held += size
    return groups


def group_by_covariances(layers: Mapping[str, CorrectableLayer]) -> Iterator[dict[str, CorrectableLayer]]:
    """``layers`` in groups whose covariances fit into memory; without those whose weights have too many columns."""
    group: dict[str, CorrectableLayer] = {}
    held = 0
    for name, layer in layers.items():
        columns = layer.matrix.shape[1]
        if columns > MAX_COLUMNS:
            continue
        size = columns**2 * 8
        if group and held + size > _ROUNDING_BYTES:
            yield group
            group, held = {}, 0
        group[name] = layer
        held += size
    if group:
        yield group
