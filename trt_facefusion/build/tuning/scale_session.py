"""INT8 pictures of a few calibration faces under any thresholds: one session for all trials."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from trt_facefusion.build.tuning.channels import Channels
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.evaluator import ALL, PictureEvaluator
from trt_facefusion.evaluation.accuracy.metric import PerFace
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.scales import add_scale_inputs, make_scale_feeds
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.types import Array, Feeds, Precision, TensorSpec


class ScaleSession:
    """Judges thresholds by the pictures that ``plan`` makes with them; a context manager.

    ``table`` is any complete table; ``channels`` go through what is tried; ``evaluator`` holds the calibration faces.
    """

    def __init__(self, plan: Plan, table: Mapping[str, float], channels: Channels, evaluator: PictureEvaluator) -> None:
        lowered = lower(channels.view, plan, channels.place_ranges(table), Precision.FP32, channels.affines)
        model, self._inputs = add_scale_inputs(lowered)
        held = [model]
        del model, lowered  # nobody else has it: the session is opened without it in memory
        self.channels, self._evaluator = channels, evaluator
        self._runner = _Scaled(OnnxRuntimeRunner(held.pop, stand_in=True, ours="the graph that scales are tried in"))

    @property
    def activations(self) -> list[str]:
        """The tensors that are quantised, in the order of the graph."""
        return list(self._inputs.values())

    def measure_ssim(self, table: Mapping[str, float], faces: slice = ALL) -> PerFace:
        """SSIM of INT8 against FP32 pictures [N] of ``faces``, with the thresholds of ``table``."""
        self._runner.scales = make_scale_feeds(self._inputs, self.channels.place_ranges(table), self.channels.affines)
        return self._evaluator.ssim(self._runner, faces)

    def __enter__(self) -> ScaleSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()


class _Scaled:
    """A runner that feeds the scales by itself."""

    def __init__(self, inner: OnnxRuntimeRunner) -> None:
        self._inner = inner
        self.scales: Mapping[str, Array] = {}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self._inner.inputs if spec.name not in self.scales)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._inner.outputs

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        return self._inner.infer({**feeds, **self.scales})

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> _Scaled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
