"""One open session of a network in which every group of layers can be switched to INT8: its pictures under any plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.onnxruntime import own_fault
from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.model.sessions import make_session_options, open_from_builder
from trt_facefusion.quantization.lowering.switch import SWITCHES
from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.types import Array

_LABEL = "the graph that plans are tried in"


class SwitchedSession:
    """Paints ``faces``, in ``batches`` of their positions, under any plan; several threads may paint at a time.

    ``make_model`` makes the switched model (see `lowering.switch`), of ``groups`` groups of layers; it is called once,
    and nobody keeps the model while the session is open. ``threads`` are those of one inference.

    Raises:
        ModelError: onnxruntime refuses the model.
    """

    def __init__(
        self,
        make_model: Callable[[], onnx.ModelProto],
        groups: int,
        renderer: PictureRenderer,
        faces: Sequence[int],
        threads: int,
    ) -> None:
        self.groups, self.renderer = groups, renderer
        options = make_session_options(threads, spin=False)
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session: Any = open_from_builder(make_model, options)
        except TrtFaceFusionError:
            raise
        except Exception as error:  # onnxruntime's classes have no common base
            raise own_fault(_LABEL, error) from error
        size = renderer.feeder.fixed_batch or 1
        self.batches = [slice(start, min(start + size, len(faces))) for start in range(0, len(faces), size)]
        self._feeds: list[Mapping[str, Array]] = [renderer.feeder(faces[batch]) for batch in self.batches]

    def paint(self, plan: GroupSet, batch: int) -> NDArray[np.float32]:
        """Pictures [N,H,W,3] of the faces of one of ``batches``, with the groups of ``plan`` in INT8."""
        switches = np.zeros(self.groups, bool)
        switches[sorted(plan)] = True
        try:
            tensor = self._session.run([self.renderer.output], {**self._feeds[batch], SWITCHES: switches})[0]
        except Exception as error:  # the same
            raise own_fault(_LABEL, error) from error
        positions = self.batches[batch]
        return self.renderer.feeder.preset.output.decode(tensor)[: positions.stop - positions.start]
