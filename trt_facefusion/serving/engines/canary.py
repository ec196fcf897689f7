"""A pool in which a candidate takes part: seen by a share of requests, compared on a sample, taken back by itself.

    running      requests in the share get the candidate's pictures (role ``candidate``), with the baseline behind it
    rolled back  nobody gets them; the candidate is not even run
    promoted     the candidate is the baseline, and the one before stands behind it

Comparisons are made behind the answers, on both sides of the share: whichever of the two answered, the other one
renders the face as well. A request that comes meanwhile goes first, and waits at most for the one inference in flight.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

from trt_facefusion.errors import BadInputError, TrtFaceFusionError
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.open import open_model
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.serving.engines.budget import RolloutBudget, average, compare_pictures
from trt_facefusion.serving.engines.events import EventKind, OnEvent, ServingEvent, drop_event
from trt_facefusion.serving.engines.health import PictureOutcome
from trt_facefusion.serving.engines.members import (
    Member,
    find_members,
    keep_from,
    make_member,
    name_apart,
    require_alike,
)
from trt_facefusion.serving.engines.pool import BASELINE, CANDIDATE, FALLBACK, EnginePool
from trt_facefusion.serving.engines.pooled import PooledEngine, PoolSettings
from trt_facefusion.serving.engines.readings import Reading, Tally
from trt_facefusion.serving.engines.rollout import Phase, Rollout, RolloutObservations, RolloutPlan
from trt_facefusion.serving.engines.rollout_file import NAME, RolloutFile
from trt_facefusion.serving.engines.rollout_keeper import RolloutKeeper
from trt_facefusion.serving.engines.shadow import ShadowQueue
from trt_facefusion.serving.engines.shares import CanarySpec, Schedule, takes_part
from trt_facefusion.serving.seam import EngineState, ServedFace, TensorInterface
from trt_facefusion.swap.engines import Rendered
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.types import Array, Feeds, Note, Precision, drop_note

_SYNC_S = 0.5
_PATIENCE_S = 5.0
_TROUBLES = {EventKind.ENGINE_OUT: 0, EventKind.PROBE_FAILED: 0, EventKind.FACE_BROKEN: 1}
"""What speaks against a candidate, and how many faces it was asked for in that."""


@dataclass(frozen=True)
class CanarySettings:
    """Which candidate, how it is rolled out, and where that is kept.

    ``shadow`` is the share of requests (0 to 1) on which candidate and baseline are compared, ``backlog`` how many
    faces may wait for that. ``state`` is the file; beside the engines where none is named.
    """

    spec: CanarySpec
    shadow: float = 0.1
    schedule: Schedule = field(default_factory=Schedule)
    budget: RolloutBudget = field(default_factory=RolloutBudget)
    state: Path | None = None
    backlog: int = 32


@dataclass(frozen=True, eq=False)
class _ShadowJob:
    """A face, and the picture that was shown of it, by the candidate or by the baseline."""

    face: FaceInput
    shown: Rendered
    of_candidate: bool


class CanaryPool:
    """A pool of engines one of which is a candidate. Serves as `EnginePool` does; ``requests`` decide who sees it.

    Args:
        paths: as `EnginePool`; the baseline is the cheapest that is not the candidate.
        canary: what is rolled out, and how.
        contract, settings, precision, embedder, converter, on_event, note: as `EnginePool`.

    Raises: as `EnginePool`; BadInputError where the candidate is no engine of the model, or the only one; StoreError
        where the rollout's file is damaged or cannot be written.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        canary: CanarySettings,
        contract: Contract | None = None,
        settings: PoolSettings | None = None,
        precision: Precision | None = None,
        *,
        embedder: Path | None = None,
        converter: Path | None = None,
        on_event: OnEvent = drop_event,
        note: Note = drop_note,
    ) -> None:
        device = 0 if settings is None else settings.chain.device
        candidate, others = _split(find_members(paths, contract, device, note), canary.spec, precision, device)
        plan = RolloutPlan(canary.spec.share, canary.schedule, canary.budget)
        file = RolloutFile(_locate_state(canary.state, candidate))
        key, labels = (candidate.digest, others[0].digest), (candidate.label, others[0].label)
        self._on_event = on_event
        self._keeper = RolloutKeeper(file, key, labels, plan, on_event)
        self._candidate_label, self._settings = candidate.label, canary
        self._tally = Tally()
        for name in ("canary_comparisons_total", "canary_dropped_total", "canary_skipped_total", "canary_faults_total"):
            self._tally.add(name, 0)
        self._pool = EnginePool(
            [candidate, *others], None, settings, embedder=embedder, converter=converter, on_event=self._hear
        )
        self._candidate, *self._others = self._pool.engines
        self._shadow = ShadowQueue(self._compare, canary.backlog)
        self._ended = threading.Event()
        self._syncer = threading.Thread(target=self._keep_in_step, name="trt-ff rollout", daemon=True)
        self._syncer.start()

    @property
    def contract(self) -> Contract:
        """How all of them are fed."""
        return self._pool.contract

    @property
    def embedder(self) -> Embedder:
        """What identities are embedded with."""
        return self._pool.embedder

    @property
    def batch(self) -> int:
        """As many faces as go into one inference of the engine that answers most."""
        return next((engine.batch for engine in self._order() if engine.serves), 1)

    @property
    def engines(self) -> Sequence[PooledEngine]:
        """All of them, the candidate first."""
        return self._pool.engines

    @property
    def rollout(self) -> Rollout:
        """How far the rollout is; from any thread."""
        return self._keeper.rollout

    @property
    def is_idle(self) -> bool:
        """Whether all comparisons that were queued are made."""
        return self._shadow.is_idle

    def serve(self, faces: Sequence[FaceInput], requests: Sequence[str]) -> list[ServedFace | TrtFaceFusionError]:
        """A sound picture of each face, or why there is none; all faces of a request go the same way."""
        rollout = self._keeper.rollout
        salt = rollout.candidate
        seeing = [
            rollout.phase == Phase.RUNNING.value and takes_part(request, f"canary {salt}", rollout.share)
            for request in requests
        ]
        answers: list[ServedFace | TrtFaceFusionError | None] = [None] * len(faces)
        for group, order, role in (
            (seeing, [self._candidate, *self._others], CANDIDATE),
            ([not sees for sees in seeing], self._order(), BASELINE),
        ):
            numbers = list(compress(range(len(faces)), group))
            rendered = self._pool.render([faces[number] for number in numbers], order, role) if numbers else []
            for number, answer in zip(numbers, rendered, strict=True):
                answers[number] = answer
        complete = [answer for answer in answers if answer is not None]
        self._learn(faces, requests, seeing, complete, salt)
        return complete

    @property
    def tensors(self) -> TensorInterface:
        """Of the engine that would run now; no candidate, which only faces are compared of."""
        return self._pool.describe_tensors(self._order())

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """As `EnginePool.infer`, never by a candidate."""
        return self._pool.infer_by(self._order(), feeds)

    def describe(self) -> list[EngineState]:
        """How the engines are, and the candidate's rollout; from any thread."""
        rollout = self._keeper.rollout
        if rollout.phase == Phase.PROMOTED.value:
            return self._pool.describe()
        states = [engine.describe(FALLBACK if level else BASELINE) for level, engine in enumerate(self._others)]
        own = self._candidate.describe(CANDIDATE)
        if rollout.phase == Phase.ROLLED_BACK.value:
            own = EngineState(own.engine, own.precision, CANDIDATE, "out", f"rolled back: {rollout.reason}")
        return [*states, own]

    def read_metrics(self) -> list[Reading]:
        """Those of the pool, and those of the rollout; from any thread.

        ``canary_faces_total{role}`` counts answers on both sides of the share, ``canary_comparisons_total`` what was
        compared by this process; ``canary_window_...`` are means over the window of the file.
        """
        rollout = self._keeper.rollout
        label = {"engine": rollout.candidate_label}
        gauges = {
            "canary_share": rollout.share,
            "canary_window_comparisons": len(rollout.window),
            "canary_window_faults": len(rollout.fault_marks),
        }
        if rollout.window:
            means = average(rollout.window)
            gauges |= {
                "canary_window_psnr_db": means.psnr_db,
                "canary_window_ssim": means.ssim,
                "canary_window_identity": means.identity,
            }
        phases = [Reading("canary_phase", {"phase": p.value}, float(p.value == rollout.phase)) for p in Phase]
        readings = [Reading(name, label, float(figure)) for name, figure in gauges.items()]
        return [*self._pool.read_metrics(), *self._tally.read(), *readings, *phases]

    def close(self) -> None:
        """Free all engines, and leave the rollout as it is in its file."""
        self._ended.set()
        self._shadow.close(_PATIENCE_S)
        self._syncer.join(_PATIENCE_S)
        self._keeper.sync()
        self._pool.close()

    def _order(self) -> list[PooledEngine]:
        """The engines that answer those who do not see a candidate."""
        promoted = self._keeper.rollout.phase == Phase.PROMOTED.value
        return [self._candidate, *self._others] if promoted else self._others

    def _learn(
        self,
        faces: Sequence[FaceInput],
        requests: Sequence[str],
        seeing: Sequence[bool],
        answers: Sequence[ServedFace | TrtFaceFusionError],
        salt: str,
    ) -> None:
        """Count who saw what, and queue comparisons; takes no time."""
        shown = 0
        for face, request, sees, answer in zip(faces, requests, seeing, answers, strict=True):
            if not isinstance(answer, ServedFace):
                continue
            self._tally.add("canary_faces_total", role=answer.role)
            shown += answer.role == CANDIDATE
            if answer.role != FALLBACK and takes_part(request, f"shadow {salt}", self._settings.shadow):
                self._queue(_ShadowJob(face, answer.rendered, sees))
        if shown:
            self._keeper.observe(RolloutObservations(faces=shown))

    def _queue(self, job: _ShadowJob) -> None:
        if self._keeper.rollout.phase == Phase.RUNNING.value and not self._shadow.offer(job):
            self._tally.add("canary_dropped_total")

    def _compare(self, job: _ShadowJob) -> None:
        """Let the other engine render the face, and hold the two pictures against each other."""
        if self._keeper.rollout.phase != Phase.RUNNING.value:
            return
        other = self._others[0] if job.of_candidate else self._candidate
        (answer,) = other.render([job.face], patient=True) if other.serves else (None,)
        if not job.of_candidate and answer is not None:
            self._judge_alone(answer)
        if not isinstance(answer, Rendered):
            self._tally.add("canary_skipped_total")
            return
        preset = self.contract.preset
        baseline, candidate = (answer, job.shown) if job.of_candidate else (job.shown, answer)
        template, _ = preset.crop(preset.image)
        comparison = compare_pictures(baseline.picture, candidate.picture, template, self.embedder)
        self._tally.add("canary_comparisons_total")
        gross = self._settings.budget.is_gross(comparison)
        self._tally.add("canary_faults_total", int(gross))
        self._keeper.observe(RolloutObservations((comparison,), faces=int(not job.of_candidate)))

    def _judge_alone(self, answer: Rendered | str | TrtFaceFusionError) -> None:
        """Count a picture that only the comparison is to see, of a face that the baseline's was sound of."""
        if isinstance(answer, str):
            self._fault(faces=1)
            self._candidate.record([PictureOutcome.BROKEN])
        elif isinstance(answer, Rendered):
            self._candidate.record([PictureOutcome.SOUND])

    def _fault(self, faces: int) -> None:
        if self._keeper.rollout.phase == Phase.RUNNING.value:
            self._tally.add("canary_faults_total")
            self._keeper.observe(RolloutObservations(faces=faces, faults=1))

    def _hear(self, event: ServingEvent) -> None:
        """What happens to the candidate speaks against it; everything is passed on."""
        if event.engine == self._candidate_label and event.kind in _TROUBLES:
            self._fault(_TROUBLES[event.kind])
        self._on_event(event)

    def _keep_in_step(self) -> None:
        while not self._ended.wait(_SYNC_S):
            with suppress(Exception):  # nothing may end the thread
                self._keeper.sync()


def _split(
    members: Sequence[Member], spec: CanarySpec, precision: Precision | None, device: int
) -> tuple[Member, list[Member]]:
    """The candidate, and the others from ``precision``, or the cheapest, to the safest."""
    if isinstance(spec.engine, Path):
        candidate = make_member(open_model(spec.engine, None, device))
        require_alike(members[0].opened, candidate.opened)
    else:
        of_precision = [member for member in members if member.precision == spec.engine.value]
        if len(of_precision) != 1:
            raise BadInputError(
                f"--canary {spec.engine.value}: the service has {len(of_precision)} engines of that precision",
                "build one and name the model's folder, or name the candidate's folder: --canary FOLDER=5%",
            )
        candidate = of_precision[0]
    others = [member for member in members if member.path.resolve() != candidate.path.resolve()]
    if not others:
        raise BadInputError(
            f"--canary: {candidate.label} is the only engine, and a candidate needs another one to be held against",
            "name the model's folder, with engines of other precisions in it, or leave --canary out",
        )
    candidate, *others = name_apart([candidate, *keep_from(others, precision)])
    return candidate, others


def _locate_state(state: Path | None, candidate: Member) -> Path:
    if state is None:
        return candidate.path.parent / NAME
    return state / NAME if state.is_dir() else state
