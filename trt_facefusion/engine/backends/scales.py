"""Our calibration table in the words of a parsed TensorRT 10 network: every tensor gets a range, or is named.

Outputs of ONNX nodes keep their names in the parser. The network has more tensors, though: weights become constants
with an output, and one node may become several layers with tensors between them. A tensor without a scale costs the
layers that read and write it their INT8.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from trt_facefusion.engine.backends.base import ScaleReport
from trt_facefusion.engine.backends.constraints import read_layer_nodes

if TYPE_CHECKING:
    import tensorrt as trt

WEIGHTS = "weights"
_SMALLEST = 1e-12


def assign_ranges(
    api: ModuleType, network: trt.INetworkDefinition, table: Mapping[str, float], inner: Mapping[str, str]
) -> ScaleReport:
    """The range of every float tensor of ``network``: from ``table``, from the weights, or from what it is a copy of.

    ``inner`` maps INT8 nodes (as metadata names them) to their ONNX output. Tensors between the layers of such a node,
    a product before its bias is added, take over that output's range: it is what TensorRT fuses them into.
    """
    trt = api
    amax: dict[str, float] = {}
    derived: dict[str, str] = {}
    missing: dict[str, None] = {}
    for index in range(network.num_inputs):
        _look_up(api, network.get_input(index), table, amax, missing)
    copies: list[tuple[str, str]] = []
    # Layers whose output holds the values of their first input and no others.
    moves = (trt.LayerType.SHUFFLE, trt.LayerType.IDENTITY, trt.LayerType.SQUEEZE, trt.LayerType.UNSQUEEZE)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            tensor = layer.get_output(output)
            _look_up(api, tensor, table, amax, missing)
            if tensor.name in missing and layer.type == trt.LayerType.CONSTANT:
                layer.__class__ = trt.IConstantLayer  # the library hands out the base class only
                amax[tensor.name] = _measure_weights(layer)
                derived[tensor.name] = WEIGHTS
            elif layer.type in moves and layer.num_inputs:
                copies.append((layer.get_input(0).name, tensor.name))
            else:
                copies += [(inner[node], tensor.name) for node in read_layer_nodes(layer.metadata) if node in inner]
    _follow_copies(copies, amax, derived)
    in_network = {*amax, *missing}
    return ScaleReport(
        {name: max(largest, _SMALLEST) for name, largest in amax.items()},
        derived,
        tuple(name for name in missing if name not in amax),
        tuple(name for name in table if name not in in_network),
    )


def _look_up(
    api: ModuleType,
    tensor: trt.ITensor,
    table: Mapping[str, float],
    amax: dict[str, float],
    missing: dict[str, None],
) -> None:
    trt = api
    if tensor.dtype not in (trt.DataType.FLOAT, trt.DataType.HALF) or tensor.is_shape_tensor:
        return
    if tensor.name in table:
        amax[tensor.name] = table[tensor.name]
    else:
        missing[tensor.name] = None


def _measure_weights(layer: trt.IConstantLayer) -> float:
    return float(np.abs(np.asarray(layer.weights, np.float32)).max(initial=0.0))


def _follow_copies(copies: list[tuple[str, str]], amax: dict[str, float], derived: dict[str, str]) -> None:
    """Give copies the range of their originals, and originals that of their copies, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for one, other in copies:
            for source, copy in ((one, other), (other, one)):
                if source in amax and copy not in amax:
                    amax[copy], derived[copy], changed = amax[source], source, True
