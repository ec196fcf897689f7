"""Times the engines of plans by the model of time: the backend compiles, its kernels say what that takes."""

from __future__ import annotations

from collections.abc import Callable

from trt_facefusion.build.compilation import CompiledEngine
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.lowered_plan import LoweredPlan
from trt_facefusion.build.tuning.plan_timer import EngineTime
from trt_facefusion.engine.timing.attribution import PlannedGraph, attribute_time, collect_layers
from trt_facefusion.engine.timing.factors import Factors
from trt_facefusion.engine.timing.gpus import GpuModel
from trt_facefusion.engine.timing.roofline import EnginePrediction, predict_engine
from trt_facefusion.engine.timing.summary import summarise
from trt_facefusion.errors import KernelsUnknownError
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.messages import hash_model
from trt_facefusion.quantization.precision import Plan


class PredictedTimer:
    """A `PlanTimer` that predicts.

    ``lower`` makes the typed graph of a plan, as the build would; ``compile_kernels`` has one compiled, and gives its
    kernels.
    """

    how = "predicted"

    def __init__(
        self,
        inputs: BuildInputs,
        lower: Callable[[Plan], LoweredPlan],
        compile_kernels: Callable[[LoweredPlan], CompiledEngine],
        gpu: GpuModel,
        factors: Factors,
    ) -> None:
        self.inputs, self.lower, self.compile_kernels = inputs, lower, compile_kernels
        self.gpu, self.factors = gpu, factors
        settings, selection = inputs.settings, inputs.job.selection
        backend = f"{selection.backend.name} {selection.backend.version()} for {selection.target}"
        options = f"{settings.batch}, {settings.options}, {settings.workspace_bytes}"
        self.described = f"{backend}; {gpu}; {self.factors}; {options}"
        self.gpu_title = gpu.title

    def compute_key(self, plan: Plan) -> str:
        """Digest of the typed graph."""
        return hash_model(self.lower(plan).typed).hexdigest()

    def time(self, plan: Plan) -> EngineTime:
        """Compile ``plan``, and predict from its kernels what it takes.

        Raises:
            KernelsUnknownError: its log could not be read.
            BuildError: the backend refused it.
        """
        lowered = self.lower(plan)
        prediction = self.predict(lowered)
        graph = PlannedGraph.of(GraphView(lowered.typed), {node.name: node.macs for node in plan.nodes})
        told = summarise(prediction, fitted=False)
        return EngineTime(
            prediction.total_ms,
            collect_layers(attribute_time(prediction, graph), graph),
            prediction.moved_bytes,
            prediction.launches,
            told.int8_kernels,
            len(told.int8_writing_fp32),
        )

    def predict(self, lowered: LoweredPlan) -> EnginePrediction:
        """Compile what was lowered, and predict what each of its kernels takes.

        Raises: as ``time``.
        """
        engine = self.compile_kernels(lowered).engine
        if not engine.kernels_known:
            raise KernelsUnknownError(
                f"{engine.backend} {engine.backend_version} lists no kernels that can be read, so no time is predicted",
                "let the plan be searched without times: --objective macs",
            )
        return predict_engine(engine.kernels, self.gpu, self.inputs.settings.batch.opt, self.factors)
