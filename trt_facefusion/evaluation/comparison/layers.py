"""Compares two graphs of one model tensor by tensor, and ranks the layers by the error that they add.

Every graph is computed as the stand-in does it (`runtime.half`) and without fusing operators: what both sides compute
alike is then equal to the bit, and an error of exactly 0 means that a layer adds none.

**Memory.** Tensors are compared in groups whose values take at most ``budget_bytes``; a group's figures are summed over
all faces before the next group begins. More groups mean more passes over the graph, never more memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.half import round_to_fp16
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.evaluation.accuracy.judge import measure
from trt_facefusion.evaluation.accuracy.metrics import Ssim
from trt_facefusion.evaluation.comparison.layer_error import LayerError, LayerSums, Node
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.graph.segments import (
    GIVEN,
    Segment,
    find_segments,
    graft_segment,
    list_activations,
    read_precision,
    set_input_shapes,
    splice_segments,
    tap_tensors,
)
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.types import Array, Feeds, Progress, silent

BUDGET_BYTES = 256 << 20
"""Values of tensors that are held at a time, beside the graphs themselves."""

Values = dict[str, Array]
Keep = Callable[[int, Values, Values, Values], None]
"""Takes one group's values on the first batch: its number, the reference's, the candidate's, and the candidate's nodes'
on the reference's inputs."""

Paint = Callable[[OnnxRuntimeRunner], NDArray[np.float32]]
"""Pictures [N,H,W,3] of a model on a few faces."""


def _drop(number: int, reference: Values, candidate: Values, local: Values) -> None:
    del number, reference, candidate, local


@dataclass(frozen=True)
class _Graph:
    """One graph for inputs of fixed shapes: ``typed`` as it is, ``view`` with FP16 rounding made explicit."""

    typed: GraphView
    view: GraphView

    @classmethod
    def fix_shapes(cls, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> _Graph:
        typed = set_input_shapes(model, shapes)
        return cls(GraphView(typed), GraphView(set_input_shapes(round_to_fp16(typed), shapes)))

    def open_runner(self, model: onnx.ModelProto) -> OnnxRuntimeRunner:
        return OnnxRuntimeRunner(model, optimise=False)


class LayerComparison:
    """Two graphs of one model, ready to be compared.

    Args:
        reference: the graph that is taken to be right.
        candidate: the graph that is judged; typed graphs bear the tensor names of the FP32 graph they were made from.
        batches: the inputs, which can be read again and again.
        budget_bytes: see the module's text.

    Raises:
        BadInputError: the graphs share no tensor.
        ModelError: a graph that cannot be run or whose shapes do not follow from the inputs.
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        candidate: onnx.ModelProto,
        batches: Batches,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._batches = batches
        self._budget = budget_bytes
        feeds = next(iter(batches))
        shapes = {name: array.shape for name, array in feeds.items()}
        self._a, self._b = _Graph.fix_shapes(reference, shapes), _Graph.fix_shapes(candidate, shapes)
        of_reference, of_candidate = list_activations(self._a.typed), list_activations(self._b.typed)
        self.sizes = {name: shape for name, shape in of_reference.items() if of_candidate.get(name) == shape}
        self.reshaped = tuple(name for name in of_reference if name in of_candidate and name not in self.sizes)
        if not self.sizes:
            raise BadInputError(
                "the two graphs share no tensor: no name of one is in the other",
                "compare an engine with the FP32 ONNX that it was built from, or with another engine of that model",
            )
        self._input_sizes = shapes

    @cached_property
    def _parts(self) -> dict[str, Segment]:
        return find_segments(self._b.view, self.sizes)

    def iterate_groups(self) -> Iterator[list[Segment]]:
        """Neighbouring tensors whose values fit the budget together (a single one that does not fit comes alone)."""
        group: list[Segment] = []
        for part in self._parts.values():
            if group and self._count_bytes([*group, part]) > self._budget:
                yield group
                group = []
            group.append(part)
        yield group

    def _count_bytes(self, group: Sequence[Segment]) -> int:
        """Bytes of the reference's values (what is read and what is made), the candidate's and the local ones."""
        compared = {part.tensor for part in group}
        read = {name for part in group for name in part.reads}
        size: dict[str, tuple[int, ...]] = {**self._input_sizes, **self.sizes}
        copies = {name: 3 if name in compared else 1 for name in compared | read}
        return sum(4 * math.prod(size[name]) * count for name, count in copies.items())

    def rank_errors(self, progress: Progress = silent, keep: Keep = _drop) -> tuple[LayerError, ...]:
        """The error of every common tensor, the worst first (`LayerError.rank`)."""
        nodes = self._describe_nodes()
        errors = []
        groups = list(self.iterate_groups())
        for number, group in enumerate(groups):
            sums = {part.tensor: LayerSums() for part in group}
            for done, (a, b, local) in enumerate(self._iterate_values(group)):
                for name, collected in sums.items():
                    collected.add(a[name], b[name], local[name])
                if not done:
                    keep(number, a, b, local)
                progress("layers", number * len(self._batches) + done + 1, len(groups) * len(self._batches))
            errors += [collected.finish(name, nodes[name]) for name, collected in sums.items()]
        return tuple(sorted(errors, key=lambda error: error.rank, reverse=True))

    def _iterate_values(self, group: Sequence[Segment]) -> Iterator[tuple[Values, Values, Values]]:
        """For each batch: the reference's, the candidate's and the local values of a group's tensors."""
        compared = [part.tensor for part in group]
        read = sorted({name for part in group for name in part.reads})
        inside = list(dict.fromkeys([*compared, *(name for name in read if name in self.sizes)]))
        size = {**self._input_sizes, **self.sizes}
        with (
            self._a.open_runner(tap_tensors(self._a.view, inside)) as reference,
            self._b.open_runner(tap_tensors(self._b.view, compared)) as candidate,
            self._b.open_runner(splice_segments(self._b.view, group, size)) as local,
        ):
            for feeds in self._batches:
                a = _infer(reference, feeds)
                b = _infer(candidate, feeds)
                have = {**feeds, **a}
                yield a, b, _infer(local, {f"{name}{GIVEN}": have[name] for name in read})

    def _describe_nodes(self) -> dict[str, Node]:
        typed, reference = find_segments(self._b.typed, self.sizes), find_segments(self._a.typed, self.sizes)
        nodes = {}
        for name in self.sizes:
            producer = self._a.typed.producer[name]
            nodes[name] = Node(
                producer.name or name,
                producer.op_type,
                read_precision(self._b.typed, typed[name]),
                read_precision(self._a.typed, reference[name]),
            )
        return nodes

    def measure_gains(
        self, errors: Sequence[LayerError], paint: Paint, count: int, progress: Progress = silent
    ) -> tuple[LayerError, ...]:
        """The errors, and for the first ``count`` that add any: what the picture gains if that layer is raised.

        The candidate is run with that one tensor computed as the reference does, everything else staying as it is, so
        that errors which hide or amplify one another count as they do in the candidate (compare `repair`).
        """
        raised = [error for error in errors if error.added != 0 or error.nonfinite_added][:count]
        if not raised:
            return tuple(errors)
        with self._a.open_runner(self._a.view.model) as runner:
            reference = paint(runner).clip(0, 1)
        with self._b.open_runner(self._b.view.model) as runner:
            base = _measure_ssim(reference, paint(runner))
        originals = find_segments(self._a.view, self.sizes)
        gains: dict[str, float | None] = {}
        for done, error in enumerate(raised, 1):
            model = graft_segment(self._b.view, self._a.view, originals[error.tensor])
            try:
                with self._b.open_runner(model) as runner:
                    gains[error.tensor] = _measure_ssim(reference, paint(runner)) - base
            except ModelError:  # a tensor of another type on each side: it cannot be handed over
                gains[error.tensor] = None
            progress("raising layers", done, len(raised))
        return tuple(replace(error, gain=gains.get(error.tensor)) for error in errors)


def _infer(runner: OnnxRuntimeRunner, feeds: Feeds) -> Values:
    """Outputs for those of ``feeds`` that the model takes, in the types it takes."""
    return runner.infer({spec.name: feeds[spec.name].astype(spec.dtype, copy=False) for spec in runner.inputs})


def _measure_ssim(reference: NDArray[np.float32], pictures: NDArray[np.float32]) -> float:
    return float(measure((Ssim(),), reference, pictures)[Ssim.name].mean())
