"""Compute ahead what does not depend on the picture: constants, and sizes that are fixed.

Values are followed also where only some of them are known: of `Shape` of [batch, 3, 64, 64] everything but the batch.
How much a result will hold is told before it is computed, so that a small file cannot ask for much memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.model.graph.evaluate import (
    ELEMENTWISE,
    FOLDABLE,
    MOST_MACS,
    SELECTING,
    bound_macs,
    count_result_bytes,
    evaluate,
)
from trt_facefusion.model.graph.result_sizes import (
    DECIDES,
    Sizes,
    find_target,
    infer_result_sizes,
    read_sizes,
    read_target_sizes,
)
from trt_facefusion.model.graph.work import Work
from trt_facefusion.model.messages import count_tensor_bytes
from trt_facefusion.types import Array

ONE_RESULT = 64 << 20
"""Bytes of a constant; it may be more if it is made from more."""
ALL_RESULTS = 256 << 20
"""Bytes of all computed constants; four times the model's own weights may be more."""
_FEW = 256
"""Values of a tensor that is followed though not all of it is known."""


@dataclass(frozen=True)
class Partial:
    """A small tensor of which only ``known`` values (bool, same shape) are known; the others read 1."""

    values: Array
    known: Array


@dataclass
class FoldingBudget:
    """What folding may still cost, for a whole model."""

    bytes: int
    macs: int = 2 * MOST_MACS
    left: set[str] = field(default_factory=set)
    """Results that stay to be computed by the engine maker."""

    def spend(self, node: onnx.NodeProto, size: int, given: int) -> None:
        """Count a result of ``size`` bytes made from ``given``. Raises ModelError when it is too much."""
        self.bytes -= size
        most = max(ONE_RESULT, given)
        if size > most or self.bytes < 0:
            what = f"would hold {size / 1e6:.0f} MB" if size > most else "is one too many"
            raise ModelError(
                f"the model's constants do not fit into memory once they are computed: {node.op_type} "
                f"{node.name or node.output[0]!r} {what}",
                "a generator needs no such constant: export the model again",
            )


def make_budget(work: Work) -> FoldingBudget:
    """What folding ``work`` may cost."""
    return FoldingBudget(max(ALL_RESULTS, 4 * work.weights_bytes))


def fold(work: Work, budget: FoldingBudget) -> bool:
    """Replace every node whose results are known by constants; whether there was one.

    Raises:
        ModelError: the constants would not fit into memory.
    """
    folder = _Folder(work, budget)
    kept = [node for node in work.graph.node if not folder.take(node)]
    changed = len(kept) < len(work.graph.node)
    del work.graph.node[:]
    work.graph.node.extend(kept)
    return changed


class _Folder:
    def __init__(self, work: Work, budget: FoldingBudget) -> None:
        self.work, self.budget, self.opset = work, budget, work.opset
        self.tensors = {t.name: work.tensor(t) for t in work.graph.initializer}
        self.known: dict[str, Array] = {}
        self.partial: dict[str, Partial] = {}
        self.outputs = {value.name for value in work.graph.output}
        typed = (*work.graph.value_info, *work.graph.input, *work.graph.output)
        self.sizes = {v.name: s for v in typed if (s := read_sizes(v)) is not None}
        self.sizes |= {t.name: tuple(t.dims) for t in work.graph.initializer}
        self.types = {v.name: v.type.tensor_type.elem_type for v in typed}
        self.types |= {t.name: t.data_type for t in work.graph.initializer}

    def take(self, node: onnx.NodeProto) -> bool:
        """Whether the node is a constant now. If not, what is known by now tells the sizes of its results."""
        self._name_the_type(node)
        folded = self._folded(node)
        if not folded and not node.domain:
            self._learn(node)
        return folded

    def _name_the_type(self, node: onnx.NodeProto) -> None:
        """CastLike asks a tensor for its type only: a constant that is cast like an activation stays a constant."""
        kind = self.types.get(node.input[1], 0) if node.op_type == "CastLike" and not node.domain else 0
        if kind:
            node.op_type = "Cast"
            del node.input[1]
            node.attribute.append(onnx.helper.make_attribute("to", kind))

    def _learn(self, node: onnx.NodeProto) -> None:
        names = [name for name in node.output if name]
        if not any(None in (self.sizes.get(name) or (None, None))[1:] for name in names):
            return
        target = self._part(find_target(node)) if find_target(node) else None
        told = read_target_sizes(node, target.values, target.known) if target is not None else None
        found = {names[0]: (0, told)} if told is not None else self._inferred(node)
        for name, (kind, sizes) in found.items():
            if sizes is not None:
                before = self.sizes.get(name) or (None,) * len(sizes)
                if len(before) == len(sizes):
                    self.sizes[name] = tuple(
                        old if new is None else new for old, new in zip(before, sizes, strict=True)
                    )
            self.types[name] = self.types.get(name) or kind

    def _inferred(self, node: onnx.NodeProto) -> dict[str, tuple[int, Sizes | None]]:
        given = {name: (self.types.get(name, 0), self.sizes.get(name)) for name in node.input if name}
        if not all(kind for kind, _ in given.values()):
            return {}
        small = [name for name in given if name in self.tensors and count_tensor_bytes(self.tensors[name]) <= DECIDES]
        return infer_result_sizes(node, given, {n: v for n in small if (v := self._value(n)) is not None}, self.opset)

    def _folded(self, node: onnx.NodeProto) -> bool:
        if node.domain or node.op_type not in FOLDABLE or not node.output[0] or node.output[0] in self.budget.left:
            return False
        values = self._sizes_of(node) if node.op_type in {"Shape", "Size"} else self._values_of(node)
        if values is None or self.outputs.intersection(node.output):
            return False
        for name, value in zip(filter(None, node.output), values, strict=True):
            self.known[name] = value
            self.tensors[name] = self.work.add(name, value)
            self.sizes[name], self.types[name] = value.shape, self.tensors[name].data_type
        return True

    def _value(self, name: str) -> Array | None:
        if name not in self.known and name in self.tensors:
            self.known[name] = numpy_helper.to_array(self.tensors[name])
        return self.known.get(name)

    def _sizes_of(self, node: onnx.NodeProto) -> list[Array] | None:
        sizes = self.sizes.get(node.input[0])
        if sizes is None:
            return None
        limits = {a.name: a.i for a in node.attribute}
        sizes = sizes[limits.get("start", 0) : limits.get("end", len(sizes))]
        known = np.array([size is not None for size in sizes], bool)
        values = np.array([1 if size is None else size for size in sizes], np.int64)
        if node.op_type == "Size":
            values, known = np.asarray(values.prod()), np.asarray(known.all())
        return self._settled(node, [Partial(np.asarray(values, np.int64), np.asarray(known))])

    def _settled(self, node: onnx.NodeProto, results: list[Partial]) -> list[Array] | None:
        if all(result.known.all() for result in results):
            return [result.values for result in results]
        for name, result in zip(filter(None, node.output), results, strict=True):
            self.partial[name] = result
        return None

    def _values_of(self, node: onnx.NodeProto) -> list[Array] | None:
        names = [name for name in dict.fromkeys(node.input) if name]
        if not names or not all(name in self.tensors or name in self.known or name in self.partial for name in names):
            return None
        parts = [name for name in names if name in self.partial]
        if parts:
            return self._partly(node, names)
        inputs = {name: value for name in names if (value := self._value(name)) is not None}
        if any(value.dtype == object for value in inputs.values()):
            return None
        return self._computed(node, inputs)

    def _computed(self, node: onnx.NodeProto, inputs: Mapping[str, Array]) -> list[Array] | None:
        size = count_result_bytes(node, inputs, self.opset)
        if size is None:
            return None
        self.budget.spend(node, size, sum(value.nbytes for value in inputs.values()))
        work = bound_macs(node, inputs, size)
        if work > self.budget.macs:
            self.budget.left.add(node.output[0])
            return None
        self.budget.macs -= work
        return evaluate(node, inputs, self.opset)

    def _partly(self, node: onnx.NodeProto, names: list[str]) -> list[Array] | None:
        """Values of which some are known: moved with a map of what is known, or computed place by place."""
        known = {name: part for name in names if (part := self._part(name)) is not None}
        values = {name: part.values for name, part in known.items()}
        if len(known) < len(names) or any(v.size > _FEW or v.dtype == object for v in values.values()):
            return None
        size = count_result_bytes(node, values, self.opset)
        maps = self._maps(node, known) if size is not None and size <= 8 * _FEW else None
        results = evaluate(node, values, self.opset) if maps is not None else None
        if maps is None or results is None:
            return None
        return self._settled(node, [Partial(r, m) for r, m in zip(results, maps, strict=True)])

    def _maps(self, node: onnx.NodeProto, inputs: Mapping[str, Partial]) -> list[Array] | None:
        """What is known of each result."""
        if node.op_type in ELEMENTWISE or node.op_type == "Cast":
            return [np.logical_and.reduce(np.broadcast_arrays(*(part.known for part in inputs.values())))]
        moved = _list_moved_inputs(node)
        if node.op_type not in SELECTING or not self.partial.keys().isdisjoint(set(inputs) - moved):
            return None  # where to look is not known
        maps = evaluate(node, {name: _select_numbers(part, name in moved) for name, part in inputs.items()}, self.opset)
        return None if maps is None else [m.astype(bool) for m in maps]

    def _part(self, name: str) -> Partial | None:
        if name in self.partial:
            return self.partial[name]
        value = self._value(name)
        return None if value is None else Partial(value, np.ones(value.shape, bool))


def _list_moved_inputs(node: onnx.NodeProto) -> set[str]:
    """The inputs whose values the operator moves; the others say where to."""
    if node.op_type == "Concat":
        return set(node.input)
    return {node.input[0], *(node.input[2:3] if node.op_type.startswith("Scatter") else ())}


def _select_numbers(part: Partial, moved: bool) -> Array:
    """What is known, as numbers of the values' own type; indices and the like stay as they are."""
    return part.known.astype(part.values.dtype) if moved else part.values
