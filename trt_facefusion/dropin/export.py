"""An engine's folder -> a drop-in file, its notes, and the calibration table where that is asked for."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.dropin.border import Border, choose_border, find_original
from trt_facefusion.dropin.check import measure_difference
from trt_facefusion.dropin.graph import (
    RUNTIME_OF_OPSET,
    computes_in_half,
    find_opset,
    has_quantisers,
    is_made_for_cpu,
    make_dropin,
)
from trt_facefusion.dropin.notes import Content, Notes
from trt_facefusion.dropin.ranges import read_quantised_ranges, require_ranges, serialise_ranges
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.export.onnx_file import load_model
from trt_facefusion.model.graph.border import read_input_specs, read_output_specs
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.storage.files import write_atomic


@dataclass(frozen=True)
class DropinRequest:
    """What is asked for: where the file goes, the original where it has moved, and the table for TensorRT 10.

    ``table`` is where that table goes; ``ranges`` the calibration cache that it is made of, else the engine's own.
    """

    output: Path
    original: Path | None = None
    table: Path | None = None
    ranges: Path | None = None


def export_dropin(model: OpenedModel, request: DropinRequest) -> Notes:
    """Write the drop-in file of an engine and, beside it, ``OUTPUT.json`` with the notes.

    Raises:
        BadInputError: no engine, or another original is named.
        ModelError: onnxruntime does not open what was made.
        CalibrationCacheError: there are no ranges to write.
        StoreError: a file cannot be written.
    """
    manifest, contract = _require_engine(model)
    original = find_original(manifest, request.original)
    typed = load_model(model.graph)
    border = choose_border(_read_border(typed), original, _list_fixed(manifest))
    content = Content(is_made_for_cpu(typed), has_quantisers(typed), computes_in_half(typed))
    table = None if request.table is None else _make_table(request, typed, original)
    facts = {"trt-facefusion": manifest.tool_version, "precision": manifest.precision, "key": manifest.build_key}
    file = serialise_model(make_dropin(typed, border, _find_matrix(contract), facts))
    opset = find_opset(typed)
    del typed
    notes = Notes(
        file=request.output.name,
        precision=manifest.precision,
        content=content,
        border=border,
        runtime=RUNTIME_OF_OPSET.get(opset, RUNTIME_OF_OPSET[20]),
        difference=measure_difference(model, contract.preset, file),
        sha256=hashlib.sha256(file).hexdigest(),
        crc32=format(zlib.crc32(file), "08x"),
        matrix=_name_matrix(contract),
        template=contract.preset.template,
        left_out=_list_left_out(original, border),
        table=None if request.table is None else request.table.name,
    )
    document = json.dumps(notes.as_dict(), indent=2) + "\n"
    write_atomic(request.output, file, "-o")
    if request.table is not None and table is not None:
        write_atomic(request.table, table, "--table")
    write_atomic(request.output.with_suffix(".json"), document.encode(), "-o")
    return notes


def _require_engine(model: OpenedModel) -> tuple[Manifest, Contract]:
    if model.manifest is None or model.contract is None:
        raise BadInputError(f"{model.label} is no engine that trt-ff built", "name an engine's folder")
    return model.manifest, model.contract


def _read_border(typed: onnx.ModelProto) -> Border:
    return Border(read_input_specs(typed), read_output_specs(typed))


def _list_fixed(manifest: Manifest) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the inputs that the engine takes in one size only."""
    return {name: tuple(low) for name, (low, _, high) in manifest.shapes.items() if tuple(low) == tuple(high)}


def _name_matrix(contract: Contract) -> str | None:
    embedding = contract.preset.embedding
    return embedding.projection if embedding is not None and contract.projection is not None else None


def _find_matrix(contract: Contract) -> tuple[str, NDArray[np.float32]] | None:
    name = _name_matrix(contract)
    return None if name is None or contract.projection is None else (name, contract.projection)


def _list_left_out(original: OnnxSource | None, border: Border) -> tuple[str, ...]:
    if original is None:
        return ()
    kept = {spec.name for spec in border.outputs}
    return tuple(spec.name for spec in read_output_specs(original.model) if spec.name not in kept)


def _make_table(request: DropinRequest, typed: onnx.ModelProto, original: OnnxSource | None) -> bytes:
    if request.ranges is not None:
        amax: Mapping[str, float] = CalibrationTable.read(request.ranges)
    elif original is None:
        raise ModelError(
            "the original file is not at hand, so nothing says which tensors a table is to have",
            "name it with --original, or the calibration of the build with --calib-cache",
        )
    else:
        graph = original.model.graph
        names = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
        amax = read_quantised_ranges(typed, frozenset(names))
    require_ranges(amax)
    return serialise_ranges(amax)
