"""Bring a checked model into the one form the other rooms work on.

After `prepare`: opset 20 or later, batch axis named `batch` (where it is dynamic), all other sizes fixed, constants
folded into initializers, every node named uniquely, shapes and types of all tensors known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

from trt_facefusion.model.graph.attention import expand_attention
from trt_facefusion.model.graph.border import (
    BATCH_AXIS,
    fix_inputs,
    keep_fed_inputs,
    keep_outputs,
    read_input_specs,
    read_output_specs,
)
from trt_facefusion.model.graph.control import refuse_control_flow
from trt_facefusion.model.graph.functions import inline_functions
from trt_facefusion.model.graph.group_norm import expand_group_norms
from trt_facefusion.model.graph.modulated import rewrite_modulated
from trt_facefusion.model.graph.opset import expand_mean_variance, upgrade
from trt_facefusion.model.graph.pads import write_all_pads
from trt_facefusion.model.graph.pixels import move_pixels_as_floats
from trt_facefusion.model.graph.refuse import refuse_long_sizes, refuse_operators, refuse_values, require_shapes
from trt_facefusion.model.graph.settle import replace_constants, settle
from trt_facefusion.model.graph.subpixel import rewrite_transposed
from trt_facefusion.model.graph.widen import drop_casts, widen
from trt_facefusion.model.graph.work import Work
from trt_facefusion.types import TensorSpec

OPSET = 20
"""The oldest opset we lower to: FP16 scales of Q/DQ need 19, GELU 20."""

_OLDEST_IR = 8
"""Before 4, initializers had to be listed as inputs, too; opset 20 itself came with 9."""


@dataclass(frozen=True)
class PreparedModel:
    """A prepared model and what it takes and gives.

    Axis 0 of ``inputs`` is `batch` or a fixed number, but for those of ``unbatched``, which have no batch axis.
    """

    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    unbatched: frozenset[str] = frozenset()

    @property
    def dynamic_batch(self) -> bool:
        """Whether the batch size can be chosen."""
        return bool(self._batched) and all(spec.shape[:1] == (BATCH_AXIS,) for spec in self._batched)

    @property
    def fixed_batch(self) -> int:
        """The batch size of a model that cannot choose (1 where it can)."""
        return next((int(s.shape[0]) for s in self._batched if isinstance(s.shape[0], int)), 1)

    @property
    def _batched(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self.inputs if spec.name not in self.unbatched)


def prepare(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    batch: int | None = None,
    outputs: Collection[str] | None = None,
) -> PreparedModel:
    """Prepare ``model``; ``shapes`` gives each input's shape *without* the batch axis.

    ``batch`` fixes a batch axis that is dynamic; of the outputs only ``outputs`` are kept (None: all).

    Raises:
        ModelError: ``shapes`` does not fit the inputs, an operator is unknown or not of FP32, the model cannot be
            upgraded, its shapes do not fit together, or what runs depends on the input.
    """
    work = Work(model)
    work.model.ir_version = max(work.model.ir_version, _OLDEST_IR)
    inline_functions(work)
    graph = work.graph
    _satisfy_checker(work.model)
    keep_fed_inputs(graph)
    unbatched = fix_inputs(graph, shapes, batch)
    if outputs is not None:
        keep_outputs(graph, outputs)
    move_pixels_as_floats(graph)
    _normalise(work)
    prepared = work.whole()
    if any([rewrite_modulated(prepared), rewrite_transposed(prepared), write_all_pads(prepared)]):
        work = Work(prepared)
        work.drop_unused()
        work.infer()
        prepared = work.whole()
    require_shapes(prepared.graph)
    return PreparedModel(prepared, read_input_specs(prepared), read_output_specs(prepared), unbatched)


def _satisfy_checker(model: onnx.ModelProto) -> None:
    """Mend what onnx's checker wants, onnxruntime does without, and no result depends on."""
    model.graph.name = model.graph.name or "graph"
    notes = {note.key: note.value for note in model.metadata_props}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, notes)


def _normalise(work: Work) -> None:
    """Bring the graph, whose inputs are fixed, into the one form."""
    del work.graph.value_info[:]
    work.drop_unused()
    _drop_empty_ends(work.graph)
    refuse_values(work.graph)
    refuse_operators(work.graph)
    refuse_long_sizes(work.graph)
    widened = widen(work)
    expand_group_norms(work.graph, work.opset)
    expand_mean_variance(work)
    replace_constants(work)
    settle(work)
    if widened:
        drop_casts(work)
    refuse_control_flow(work.graph)
    expand_attention(work)
    upgrade(work, OPSET)
    replace_constants(work)
    settle(work)
    work.drop_unused()
    _name_nodes(work.graph)
    work.infer()


def _drop_empty_ends(graph: onnx.GraphProto) -> None:
    """Leave optional inputs out where nothing follows them: TensorRT takes no empty name for, say, a bias."""
    for node in graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]


def _name_nodes(graph: onnx.GraphProto) -> None:
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
            while node.name in seen:
                node.name += "_"
        seen.add(node.name)
