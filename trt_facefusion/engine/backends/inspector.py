"""Kernels of a built TensorRT 10 or 11 engine, from the engine inspector's JSON (profiling verbosity DETAILED).

A layer looks like this, with more or fewer keys from version to version; anything that cannot be read makes the whole
table unknown, never half known::

    {"Name": "a + b", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", "Dimensions": [1, 3, 8, 8],
     "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}], "Outputs": [...],
     "Weights": {"Type": "Int8", "Count": 9408}, "TacticName": "...",
     "Metadata": "[ONNX Layer: a]\\u001e[ONNX Layer: b]"}
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.engine.backends.constraints import read_layer_nodes
from trt_facefusion.engine.backends.session import Session

_DTYPE = re.compile(
    r"\b(int8|uint8|fp8|fp16|half|bf16|bfloat16|fp32|float|int32|int64|bool|int4|fp4|tf32)\b", re.IGNORECASE
)
_SHORT = {"half": "fp16", "float": "fp32", "bfloat16": "bf16", "tf32": "fp32"}


@dataclass(frozen=True)
class InspectedEngine:
    """What a loaded engine says of itself; None and no kernels where it could not be loaded or read."""

    kernels: tuple[Kernel, ...] = ()
    kernels_known: bool = False
    weights_bytes: int | None = None
    activations_bytes: int | None = None


def inspect(session: Session, serialised: bytes, *, version_compatible: bool = False) -> InspectedEngine:
    """Load a built engine once and ask the inspector; an engine that cannot be loaded here gives no facts."""
    trt = session.api
    runtime = trt.Runtime(session.logger)
    if version_compatible:
        runtime.engine_host_code_allowed = True  # such an engine brings a runtime along; this one was made right here
    engine = runtime.deserialize_cuda_engine(serialised)
    if engine is None:
        return InspectedEngine()
    inspector = engine.create_engine_inspector()
    kernels = parse(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return InspectedEngine(
        kernels or (),
        bool(kernels),
        int(engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE)),
        int(engine.device_memory_size_v2),
    )


def parse(text: str) -> tuple[Kernel, ...] | None:
    """The kernels that the inspector's JSON describes, or None when anything in it is not understood."""
    try:
        return tuple(_read_kernel(layer) for layer in json.loads(text)["Layers"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _read_kernel(layer: dict[str, Any]) -> Kernel:
    weights = layer.get("Weights")
    constants = () if not weights else (_read_weights(weights),)
    return Kernel(
        name=str(layer["Name"]),
        type=str(layer["LayerType"]),
        nodes=tuple(dict.fromkeys(read_layer_nodes(layer.get("Metadata", "")))),
        inputs=tuple(_read_tensor(tensor) for tensor in layer["Inputs"]),
        constants=constants,
        outputs=tuple(_read_tensor(tensor) for tensor in layer["Outputs"]),
        tactic=str(layer.get("TacticName", "")),
    )


def _read_weights(weights: dict[str, Any]) -> TensorFormat:
    """A layer's weights: the inspector tells their type and how many they are, but no shape."""
    count = weights.get("Count")
    return TensorFormat("weights", _read_dtype(weights["Type"]), count=None if count is None else int(count))


def _read_tensor(tensor: dict[str, Any]) -> TensorFormat:
    layout = str(tensor.get("Format/Datatype") or tensor["Format"])
    dtype = tensor.get("Datatype") or layout
    return TensorFormat(
        str(tensor["Name"]), _read_dtype(str(dtype)), tuple(int(n) for n in tensor["Dimensions"]), layout
    )


def _read_dtype(text: str) -> str:
    """The one data type that ``text`` names. Raises ValueError for none."""
    names = _DTYPE.findall(text)
    if not names:
        raise ValueError(text)
    name = str(names[-1]).lower()
    return _SHORT.get(name, name)
