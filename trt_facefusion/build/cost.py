"""What a build will cost on this machine: one inference is timed before it starts, all others are counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from trt_facefusion.build.effort import AUTO, BuildCost, Task, choose_affordable, estimate_levels, find_level
from trt_facefusion.build.forms import change_rules, parse_forms
from trt_facefusion.build.job import Job
from trt_facefusion.build.network import Network
from trt_facefusion.build.objective import TIME
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.backends.base import BuildRequest
from trt_facefusion.engine.backends.capabilities import Capabilities
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BuildError
from trt_facefusion.model.graph import GraphView, count_macs
from trt_facefusion.model.messages import serialise_model
from trt_facefusion.quantization.correction.kinds import LAYER_CORRECTIONS, parse_corrections
from trt_facefusion.quantization.lowering import apply_fusion_rules, lower
from trt_facefusion.quantization.lowering.equalise import find_equalisable
from trt_facefusion.quantization.precision import plan_by_rules, quantisable
from trt_facefusion.quantization.precision.groups import group_candidates
from trt_facefusion.types import Feeds, Precision, Progress

_SLOW_S = 2.0
"""An inference that takes this long is timed once behind the first, a faster one three times."""
_TOLD_EVERY_S = 60.0
_LOADS = 16
"""Times that a build loads, lowers or writes a network of this size."""


@dataclass(frozen=True)
class Timing:
    """What one sample takes where the machine has nothing else to do, and what loading the model takes, in seconds.

    ``slowdown``: how many times as long it takes now. ``engine_s`` is what compiling one engine takes; 0 where it is
    not timed.
    """

    each_s: float
    load_s: float = 0.0
    slowdown: float = 1.0
    engine_s: float = 0.0


def time_inference(model: onnx.ModelProto, feeds: Feeds, samples: int) -> Timing:
    """Time ``model`` on ``feeds``, which hold ``samples``.

    What counts is the processor's time, spread over its cores: how much a build tries must not depend on what else the
    machine does while it is asked.
    """
    load = _Stopwatch()
    with OnnxRuntimeRunner(model) as runner:
        load.stop()
        runs = [_run(runner, feeds)]
        runs += [_run(runner, feeds) for _ in range(1 if runs[0].wall_s >= _SLOW_S else 3)]
    best = min(runs, key=lambda run: run.cpu_s)
    each = max(min(best.cpu_s / count_cores(), best.wall_s), 1e-6)
    return Timing(each / max(samples, 1), min(load.cpu_s, load.wall_s), max(best.wall_s / each, 1.0))


def time_compiling(job: Job, network: Network) -> float:
    """Seconds that an engine of ``network`` takes to lower and compile, all in FP16, where it does in seconds.

    0 where compiling is not a part of the search or takes long; then the search tells it itself, of engines that it
    needs. 0 also where the backend refuses that engine: what comes of it, the search decides.
    """
    backend, settings = job.selection.backend, job.settings
    if job.goal.name != TIME or not backend.capabilities.compiles_in_seconds:
        return 0.0
    job.reporter.progress("cost", 0, 0)
    watch = _Stopwatch()
    plan = plan_by_rules(network.view, {}, settings.source.name).capped(Precision.FP16)
    fusion = change_rules(backend.capabilities.fusion, parse_forms(settings.forms))
    typed = apply_fusion_rules(network.view, lower(network.view, plan, {}, Precision.FP16), fusion)
    request = BuildRequest(
        serialise_model(typed),
        network.list_shapes(),
        job.selection.target,
        workspace_bytes=settings.workspace_bytes,
        options=settings.options,
    )
    try:
        backend.build(request)
    except BuildError:
        return 0.0
    watch.stop()
    return min(watch.cpu_s, watch.wall_s)


def count_cores() -> float:
    """Processor cores that this process may use: of the machine, of its affinity, of a container's quota."""
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(min(usable, int(quota) / int(period)), 0.1)
    except (OSError, ValueError):  # no such file, or "max": no quota
        return usable


class _Stopwatch:
    """Seconds since it was made, by the clock and of this process's processor time, until it is stopped."""

    def __init__(self) -> None:
        self.wall_s, self.cpu_s = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall_s, self.cpu_s = time.perf_counter() - self.wall_s, time.process_time() - self.cpu_s


def _run(runner: OnnxRuntimeRunner, feeds: Feeds) -> _Stopwatch:
    watch = _Stopwatch()
    runner.infer(feeds)
    watch.stop()
    return watch


class PacedProgress:
    """Passes progress on, and says once a minute how much of the expected time is over; a progress callback."""

    def __init__(self, progress: Progress, note: Callable[[str], None], expected_s: float) -> None:
        self._progress, self._note, self._expected = progress, note, expected_s
        self._started = self._last_note = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report progress."""
        self._progress(stage, done, total)
        now = time.monotonic()
        if now - self._last_note < _TOLD_EVERY_S:
            return
        self._last_note = now
        counted = f" {done}/{total}" if total else ""
        self._note(
            f"{(now - self._started) / 60:.0f} of about {max(self._expected, 60) / 60:.0f} minutes: {stage}{counted}"
        )


def describe_task(
    settings: BuildSettings,
    view: GraphView,
    calibration: int,
    verification: int,
    backend: Capabilities,
    *,
    times_plans: bool = False,
) -> Task:
    """What a build with ``settings`` for ``backend`` has to do, for so many faces to calibrate on and to verify on.

    ``times_plans``: the plan search has engines compiled. What no longer has to be done, as a cache holds it, is not
    known here: a cost is what it is at most.
    """
    layers = [name for name in view.nodes if quantisable(view, name)]
    named = parse_corrections(settings.corrections)
    corrects = 2 if named is None else int(bool(named & set(LAYER_CORRECTIONS)))
    auto = settings.rule == AUTO
    judged = set(settings.precisions or (Precision.INT8, Precision.FP16))
    return Task(
        calibration_faces=calibration,
        verification_faces=verification,
        groups=len(group_candidates(view, layers)),
        macs=sum(count_macs(view).values()),
        precisions=len(judged - {Precision.FP32}),
        int8=bool(layers) and Precision.INT8 in judged,
        calibrates=settings.table is None,
        compares_rules=auto and not backend.stores_all,
        equalises=named is None and bool(find_equalisable(view)),
        corrects=corrects,
        searches=settings.plan is None and settings.planner == AUTO and not backend.stores_all,
        search_faces=settings.search_faces,
        folds=backend.folds_scales,
        stores=backend.integer_results or backend.stores_all,
        times_plans=times_plans,
    )


def estimate_cost(settings: BuildSettings, task: Task, timing: Timing) -> BuildCost:
    """The level of effort that ``settings`` name or that fits into their time, and what it costs.

    Raises:
        BadInputError: there is no such level.
    """
    named = find_level(settings.effort)
    minutes = 0.0 if named is not None else settings.minutes  # a level that was named is kept to at any price
    estimates = estimate_levels(task, timing.each_s, _LOADS * timing.load_s, timing.engine_s, minutes)
    estimate = choose_affordable(estimates, settings.minutes)
    if named is not None:
        estimate = next(estimate for estimate in estimates if estimate.level is named)
    shown = () if settings.precisions else ("calibration", "thresholds")
    return BuildCost(estimate, estimates[0], settings.minutes, settings.effort, shown, timing.slowdown)
