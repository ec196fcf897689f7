"""The proof begins at the file: what is checked of a network before anything is calibrated or built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import ModelError, PreparationError, TrtFaceFusionError
from trt_facefusion.evaluation.accuracy.agreement import (
    SAME_NETWORK,
    SAME_NETWORK_IN_HALF,
    Agreement,
    RoundingLimits,
    agreement,
    measured,
    pooled,
)
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.inference.graph_difference import find_first_difference, find_first_mixing
from trt_facefusion.inference.original import computes_in_half, require_finite_pictures
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.graph.segments import list_activations, set_input_shapes
from trt_facefusion.types import Feeds

if TYPE_CHECKING:
    from trt_facefusion.build.inputs import Context

_SAMPLES = 3
_FEW = 8
_CHUNK = 8
"""Faces whose pictures are held at a time, where the reference's are kept."""

Pictures = NDArray[np.float32]


class Proof:
    """Checks of one network, on the faces of its build."""

    def __init__(self, context: Context) -> None:
        self.context = context
        half = computes_in_half(context.original.loaded)
        self.limits: RoundingLimits = SAME_NETWORK_IN_HALF if half else SAME_NETWORK

    def samples(self) -> None:
        """The same face must give the same picture: again, and among others.

        Raises:
            ModelError: it does not; names the first node whose result depends on the others.
        """
        context = self.context
        faces = context.faces[0]
        feeder = context.feeder(faces)
        others = list(range(min(_SAMPLES, len(faces))))
        with context.original.open_runner() as runner:
            alone = feeder(others[:1])
            first = require_finite_pictures(self._first(runner, alone))
            again = agreement(first, self._first(runner, alone))
            if not again.within(self.limits):
                raise ModelError(
                    f"the same face gives another picture each time ({again}), so no verdict is possible",
                    "the network draws random numbers or keeps a state: export it in evaluation mode (net.eval())",
                )
            among = feeder(others)
            if feeder.fixed_batch == 1 or len(others) < 2:
                return
            try:
                beside = self._first(runner, among)
            except ModelError as error:
                self._only_one_at_a_time(error)
                return
        found = agreement(first, beside)
        if not found.within(self.limits):
            node = find_first_mixing(context.original, alone, among, self._sizes(among))
            raise ModelError(
                f"{node or 'a node'} mixes the faces of a batch: a face's picture depends on those that run beside it "
                f"({found})",
                "export the network in evaluation mode (net.eval()), so that only the sample decides; or with a batch "
                "that is fixed at 1, if it will only ever run one face at a time",
            )

    def _first(self, runner: Infers, feeds: Feeds) -> Pictures:
        renderer = self.context.renderer(self.context.faces[0])
        decoded: Pictures = renderer.feeder.preset.output.decode(runner.infer(feeds)[renderer.output])
        return decoded[:1]

    def _only_one_at_a_time(self, error: ModelError) -> None:
        """A batch axis that has a name only: all right where the engine is to take one face at a time."""
        if self.context.settings.batch.max > 1 or self.context.prepared.fixed_batch > 1:
            raise ModelError(
                f"the network fails on more than one face at a time, though its batch axis has no fixed size: "
                f"{error.message}",
                "use --batch 1, or export it with a batch axis that is really dynamic",
            ) from error
        self.context.one_at_a_time = True
        self.context.note("the network takes one face at a time only: everything is run so")

    def _sizes(self, feeds: Feeds) -> dict[str, tuple[int, ...]]:
        shapes = {name: value.shape for name, value in feeds.items()}
        return list_activations(GraphView(set_input_shapes(self.context.prepared.model, shapes)))

    def hold(self, few: bool = False) -> Agreement:
        """The prepared FP32 graph against what was handed in, on all faces that are judged (or a ``few``).

        Raises:
            PreparationError: the pictures differ by more than rounding; names the node.
        """
        context = self.context
        held_out = context.faces[1]
        few = few or not len(held_out)
        faces = context.faces[0].subset(range(min(_FEW, len(context.faces[0])))) if few else held_out
        wanted = self._original(faces) if few else context.reference
        found, worst = self._compared(faces, wanted)
        limits = self.limits
        if not found.within(limits):
            limits = limits.widened(self._rounding(faces, wanted))
        if not found.within(limits):
            raise self._changed(found, limits, faces, worst)
        context.note(f"the prepared network against {context.original.label}: {found}")
        return found

    def _original(self, faces: FaceSet) -> Pictures:
        with self.context.original.open_runner() as runner:
            return require_finite_pictures(
                self.context.judge_renderer(faces)(runner, None, self.context.progress, "reference")
            )

    def _compared(self, faces: FaceSet, wanted: Pictures) -> tuple[Agreement, int]:
        """The figures, and the face that differs most."""
        context = self.context
        renderer = context.judge_renderer(faces)
        size = renderer.batch * max(_CHUNK // renderer.batch, 1)
        parts = []
        with OnnxRuntimeRunner(context.prepared.model, ours="the prepared graph") as runner:
            for start in range(0, len(faces), size):
                chosen = range(start, min(start + size, len(faces)))
                parts.append(measured(wanted[start : chosen.stop], renderer(runner, chosen)))
                context.progress("prepared network", chosen.stop, len(faces))
        return pooled(parts), int(np.concatenate([largest for _, largest in parts]).argmax())

    def _rounding(self, faces: FaceSet, wanted: Pictures) -> Agreement:
        """What the file's own pictures differ by when onnxruntime computes it in another order."""
        few = range(min(_FEW, len(faces)))
        with self.context.original.open_runner(optimise=False) as runner:
            return agreement(wanted[: few.stop], self.context.judge_renderer(faces)(runner, few))

    def _changed(self, found: Agreement, limits: RoundingLimits, faces: FaceSet, worst: int) -> PreparationError:
        context = self.context
        feeds = context.judge_renderer(faces).feeder([worst])
        try:
            where = find_first_difference(context.original, context.prepared.model, feeds)
        except TrtFaceFusionError:  # the graph is too large to be taken apart: the fault is told all the same
            where = None
        node = "no single node that both know differs" if where is None else str(where)
        return PreparationError(
            f"preparing the network changed the picture by {found.ssim_drop:.4%} SSIM, and by {_levels(found)} of 255 "
            f"levels at most ({limits.ssim_drop:.4%} and {_levels(limits)} are allowed): {node}",
            "this is a fault of trt-ff and not of your file: please report it with that file. A file that is exported "
            "at opset 20 or later needs no conversion",
        )


def _levels(figures: Agreement | RoundingLimits) -> str:
    return f"{255 * figures.max_difference:.3g}"
