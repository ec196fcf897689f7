"""What the stages of a build work from: the network, proven; the faces; what may be tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.cost import PacedProgress, describe_task, estimate_cost, time_compiling, time_inference
from trt_facefusion.build.effort import TOLD_SECONDS, BuildCost, Level
from trt_facefusion.build.face_sets import FaceSets, read_face_sets
from trt_facefusion.build.forms import FOLDED, TYPED, change_rules, parse_forms
from trt_facefusion.build.job import Job
from trt_facefusion.build.network import Network
from trt_facefusion.build.network_reader import read_network
from trt_facefusion.build.objective import TIME
from trt_facefusion.build.proof import Proof, prove_network
from trt_facefusion.build.reporter import Reporter
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.backends.capabilities import Capabilities, Judged, Typing
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.cache import load_named
from trt_facefusion.quantization.lowering import FusionRules
from trt_facefusion.quantization.precision import Plan, read_plan


@dataclass(frozen=True)
class BuildInputs:
    """All that goes into the stages of one build; made once, and never changed.

    ``plan`` is the one that the user named. ``cost`` is what the build is expected to cost, and how much it tries.
    """

    job: Job
    network: Network
    faces: FaceSets
    cost: BuildCost
    proof: Proof
    plan: Plan | None

    @property
    def settings(self) -> BuildSettings:
        """What the build was asked for."""
        return self.job.settings

    @property
    def reporter(self) -> Reporter:
        """Whom it tells."""
        return self.job.reporter

    @property
    def view(self) -> GraphView:
        """The prepared graph, indexed."""
        return self.network.view

    @property
    def level(self) -> Level:
        """Limits of what is tried."""
        return self.cost.estimate.level

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do."""
        return self.job.selection.backend.capabilities

    @property
    def tools(self) -> Tools:
        """What metrics may use."""
        return Tools(self.network.embedder, self.settings.preset.template, self.settings.lpips_backbone)

    @property
    def integer_results(self) -> bool:
        """Whether the backend wants integer operators, whose results are quantised, too."""
        return self.capabilities.integer_results

    @property
    def stores_all(self) -> bool:
        """Whether every tensor between operators is stored in integers, as a neural processor wants it."""
        return self.capabilities.stores_all

    @property
    def folds_scales(self) -> bool:
        """Whether scales of channels may be folded into constants of the graph that the backend builds."""
        allowed = self.capabilities.folds_scales and self.forms.get(FOLDED, True)
        if not self.capabilities.unfolded_majors or not self.types_weakly:
            return allowed
        major = self.job.selection.backend.version().partition(".")[0]
        return allowed and major not in map(str, self.capabilities.unfolded_majors)

    @property
    def forms(self) -> Mapping[str, bool]:
        """Forms of the typed graph that were named: whether they are to be."""
        return parse_forms(self.settings.forms)

    @property
    def fusion(self) -> FusionRules:
        """The form that the typed graph is written in."""
        return change_rules(self.capabilities.fusion, self.forms)

    @property
    def types_weakly(self) -> bool:
        """Whether the backend is given the plan, to choose types itself, beside the typed graph."""
        return self.capabilities.typing is Typing.WEAK and not self.forms.get(TYPED, False)

    @property
    def pairs(self) -> bool:
        """Whether products of two neighbouring weights must not saturate in 16 bits."""
        return self.capabilities.adds_pairs_in_16_bits

    def feed_calibration(self) -> Feeder:
        """Network inputs for the calibration faces."""
        return self.network.make_feeder(self.faces.calibration)

    def paint_reference(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """The prepared FP32 graph's pictures of some calibration faces: what everything that is tried is held against.

        Raises:
            ModelError: they hold NaN or infinity.
        """
        progress = self.reporter.progress
        return self.network.paint_reference(self.faces.calibration, "reference pictures", indices, progress)


def read_inputs(
    job: Job, network: Network | None = None, faces: FaceSets | None = None, *, judged: bool = True
) -> BuildInputs:
    """Read everything that goes in, and refuse what cannot be right before the long part begins.

    Args:
        job: the build.
        network: its network, where it was read already.
        faces: its faces, where they were read already.
        judged: whether engines will be judged; otherwise a few calibration faces have to do for the proof.

    Raises:
        PlanError: the plan that the user named is malformed, or is not this model's.
        CalibrationCacheError: the table that the user named is damaged, or is not this model's.
        TrtFaceFusionError: bad input, or a network that cannot be proven.
    """
    settings, reporter = job.settings, job.reporter
    network = network or read_network(settings, job.embedder, reporter)
    view = network.view
    plan = None if settings.plan is None else read_plan(settings.plan, view, view.digest, settings.source.name)
    if settings.table is not None:
        load_named(settings.table, model_digest=view.digest)
    faces = faces or read_face_sets(job)
    cost = measure_cost(job, network, faces)
    network, proof = prove_network(network, faces, settings, reporter, judged=judged)
    return BuildInputs(job, network, faces, cost, proof, plan)


def measure_cost(job: Job, network: Network, faces: FaceSets) -> BuildCost:
    """Time one inference, and one engine where the plan search compiles many; count all others, and tell what the build
    will cost. From then on progress is paced.

    Raises:
        BadInputError: there is no such level of effort.
    """
    reporter = job.reporter
    calibration = faces.calibration
    feeds = network.make_feeder(calibration)(range(min(network.smallest_batch, len(calibration))))
    reporter.progress("cost", 0, 0)
    timing = time_inference(network.prepared.model, feeds, network.smallest_batch)
    capabilities = job.selection.backend.capabilities
    task = describe_task(
        *(job.settings, network.view, len(calibration), len(faces.verification), capabilities),
        times_plans=job.goal.name == TIME,
    )
    if task.int8 and task.searches:
        timing = replace(timing, engine_s=time_compiling(job, network))
    cost = estimate_cost(job.settings, task, timing)
    cost = replace(cost, simulates=capabilities.judged is Judged.SIMULATED)
    if cost.estimate.seconds >= TOLD_SECONDS or cost.cut:
        reporter.note(cost.describe())
        reporter.progress = PacedProgress(reporter.progress, reporter.note, cost.estimate.seconds)
    return cost
