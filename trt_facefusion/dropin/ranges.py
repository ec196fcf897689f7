"""Ranges of tensors -> the table that onnxruntime's TensorRT provider reads (``trt_int8_calibration_table_name``).

It is a flatbuffer: pairs of a tensor's name and its largest magnitude, both texts, as onnxruntime's own
``write_calibration_table`` has them. The provider reads TensorRT's text form, too, where it is told so
(``trt_int8_use_native_calibration_table``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.quantization.calibration.table import INT8_MAX

_FIRST_BYTES = 1024


def serialise_ranges(amax: Mapping[str, float]) -> bytes:
    """``amax`` (tensor -> largest magnitude) as the flatbuffer that the provider reads."""
    import flatbuffers
    from onnxruntime.quantization.CalTableFlatBuffers import KeyValue, TrtTable

    builder = flatbuffers.Builder(_FIRST_BYTES)
    pairs = []
    for name in sorted(amax):
        key, text = builder.CreateString(name), builder.CreateString(str(float(amax[name])))
        KeyValue.KeyValueStart(builder)
        KeyValue.KeyValueAddKey(builder, key)
        KeyValue.KeyValueAddValue(builder, text)
        pairs.append(KeyValue.KeyValueEnd(builder))
    TrtTable.TrtTableStartDictVector(builder, len(pairs))
    for pair in reversed(pairs):
        builder.PrependUOffsetTRelative(pair)
    entries = builder.EndVector()
    TrtTable.TrtTableStart(builder)
    TrtTable.TrtTableAddDict(builder, entries)
    builder.Finish(TrtTable.TrtTableEnd(builder))
    return bytes(builder.Output())


def read_quantised_ranges(typed: onnx.ModelProto, original: frozenset[str]) -> dict[str, float]:
    """The ranges of the tensors that a typed graph quantises as they are, by the names of the ``original``.

    Casts in front of a quantiser are looked through. What is scaled or shifted before it is quantised has no range that
    a table could hold, and is left out.
    """
    made_by = {name: node for node in typed.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in typed.graph.initializer}
    amax: dict[str, float] = {}
    for node in typed.graph.node:
        scale = constants.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is None or scale.dims:
            continue
        name = node.input[0]
        while name in made_by and made_by[name].op_type == "Cast":
            name = made_by[name].input[0]
        if name in original:
            reach = float(numpy_helper.to_array(scale).astype(np.float64)) * INT8_MAX
            amax[name] = max(amax.get(name, 0.0), reach)
    return amax


def require_ranges(amax: Mapping[str, float]) -> None:
    """Raise `CalibrationCacheError` where no range is left to write."""
    if not amax:
        raise CalibrationCacheError(
            "no tensor of the original is quantised as it is, so there is no table to write",
            "name the calibration of the build with --calib-cache, or leave --table out",
        )
