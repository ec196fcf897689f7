"""Tensors as the Open Inference Protocol carries them: JSON, or raw bytes behind the JSON (the binary-data extension).

Source: Open Inference Protocol, version 2, REST (https://github.com/kserve/open-inference-protocol), and Triton's
extension_binary_data.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.serving.problems import RequestError, TooLargeError
from trt_facefusion.text import printable
from trt_facefusion.types import Array, Feeds, TensorSpec

_NAMES = {
    "bool": "BOOL",
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_REMEDY = "send what the Open Inference Protocol, version 2, says"
_MAX_AXES, _MAX_ELEMENTS = 8, 1 << 28


@dataclass(frozen=True)
class OutputRequest:
    """An output that is wanted, as bytes or as JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, eq=False)
class InferRequest:
    """Inputs, the outputs that are wanted (none named: all), and what the client calls the request."""

    feeds: Feeds
    outputs: tuple[OutputRequest, ...]
    all_binary: bool
    name: str | None


def name_type(dtype: str) -> str:
    """The protocol's name of numpy's ``dtype``."""
    return _NAMES.get(dtype, "BYTES")


def describe_tensor(spec: TensorSpec) -> dict[str, Any]:
    """``spec`` as model metadata shows it: -1 for axes of any length."""
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": name_type(spec.dtype), "shape": shape}


def read_infer_request(body: bytes, header_length: str | None) -> InferRequest:
    """The request in ``body``, whose first ``header_length`` bytes are JSON (all of them where it is None).

    Raises:
        RequestError: it is not what the protocol says.
        TooLargeError: a tensor has more than 2**28 elements.
    """
    head, tail = _split(body, header_length)
    try:
        document = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is no JSON object", _REMEDY) from error
    inputs = _require_list(document, "inputs")
    if not inputs:
        raise RequestError("the request has no inputs", _REMEDY)
    feeds: dict[str, Array] = {}
    at = 0
    for entry in inputs:
        name, tensor, at = _read_tensor(entry, tail, at)
        if name in feeds:
            raise RequestError(f"the input {printable(name)!r} is there twice", _REMEDY)
        feeds[name] = tensor
    if at != len(tail):
        raise RequestError(f"{len(tail) - at} bytes behind the tensors belong to none", _REMEDY)
    parameters = _get_parameters(document)
    outputs = tuple(_read_output(entry) for entry in _require_list(document, "outputs"))
    name = document.get("id")
    return InferRequest(
        feeds, outputs, bool(parameters.get("binary_data_output")), name if isinstance(name, str) else None
    )


def write_infer_reply(
    request: InferRequest, outputs: Mapping[str, Array], specs: Sequence[TensorSpec], model: str, version: str
) -> tuple[bytes, int | None]:
    """The reply with ``outputs``, and the length of its JSON where bytes follow.

    Raises:
        RequestError: an output is wanted that there is not.
    """
    names = [spec.name for spec in specs]
    chosen = request.outputs or tuple(OutputRequest(name, request.all_binary) for name in names)
    entries, tails = [], []
    for output in chosen:
        if output.name not in outputs:
            raise RequestError(f"there is no output {printable(output.name)!r}", f"the model gives {', '.join(names)}")
        tensor = np.ascontiguousarray(outputs[output.name])
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": name_type(tensor.dtype.name),
            "shape": list(tensor.shape),
        }
        if output.binary or request.all_binary:
            tails.append(tensor.tobytes())
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            entry["data"] = _list_values(tensor)
        entries.append(entry)
    reply: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if request.name is not None:
        reply["id"] = request.name
    head = json.dumps(reply).encode()
    return b"".join([head, *tails]), len(head) if tails else None


def _list_values(tensor: NDArray[Any]) -> list[Any]:
    """Values for JSON, which has no NaN."""
    values = tensor.astype(np.float64) if tensor.dtype.kind == "f" else tensor
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RequestError("the output has values that JSON cannot hold", "ask for it as binary data")
    listed: list[Any] = values.ravel().tolist()
    return listed


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isdecimal() or len(header_length) > 10 or int(header_length) > len(body):
        raise RequestError("Inference-Header-Content-Length is not the length of the JSON", _REMEDY)
    return body[: int(header_length)], memoryview(body)[int(header_length) :]


def _read_tensor(entry: Any, tail: memoryview, at: int) -> tuple[str, Array, int]:
    """Name and values of an input, and where the next one begins in ``tail``."""
    name, dtype, shape = _read_spec(entry)
    count = math.prod(shape)
    size = _get_parameters(entry).get("binary_data_size")
    if size is None:
        return name, _parse_values(name, entry.get("data"), dtype, shape), at
    if size != count * dtype.itemsize or at + size > len(tail):
        raise RequestError(
            f"binary_data_size of {printable(name)!r} is not that of {name_type(dtype.name)} {list(shape)}", _REMEDY
        )
    tensor = np.frombuffer(tail[at : at + size], dtype.newbyteorder("<")).astype(dtype, copy=True)
    return name, tensor.reshape(shape), at + size


def _read_spec(entry: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RequestError("an input has no name", _REMEDY)
    name, kind, shape = entry["name"], entry.get("datatype"), entry.get("shape")
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise RequestError(f"the datatype of {printable(name)!r} is none of {', '.join(_DTYPES)}", _REMEDY)
    if not isinstance(shape, list) or not 0 < len(shape) <= _MAX_AXES or not all(map(_is_length, shape)):
        raise RequestError(f"the shape of {printable(name)!r} is no list of lengths", _REMEDY)
    if math.prod(shape) > _MAX_ELEMENTS:
        raise TooLargeError(f"the input {printable(name)!r} has too many elements", "send fewer samples at once")
    return name, np.dtype(_DTYPES[kind]), tuple(shape)


def _is_length(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 < size <= _MAX_ELEMENTS


def _parse_values(name: str, values: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Values in JSON: flat, or nested like the shape."""
    try:
        tensor = np.asarray(values)
        if tensor.dtype.kind not in "biuf" or tensor.size != math.prod(shape):
            raise ValueError
        with np.errstate(over="ignore"):
            return tensor.astype(dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RequestError(
            f"data of {printable(name)!r} are not {math.prod(shape)} numbers of {name_type(dtype.name)}", _REMEDY
        ) from error


def _read_output(entry: Any) -> OutputRequest:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RequestError("an output has no name", _REMEDY)
    return OutputRequest(entry["name"], bool(_get_parameters(entry).get("binary_data")))


def _require_list(document: Any, key: str) -> list[Any]:
    entries = document.get(key, []) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise RequestError(f"{key} is no list", _REMEDY)
    return entries


def _get_parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError("parameters is no object", _REMEDY)
    return parameters
