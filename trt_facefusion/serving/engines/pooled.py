"""One engine of a pool: loaded in a thread of its own, tried with a face that is nobody's, watched, tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError, DeviceError, TrtFaceFusionError
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.serving.engines.engine_thread import EngineHungError, EngineLeftError, EngineThread
from trt_facefusion.serving.engines.events import EventKind, OnEvent, drop_event, tell
from trt_facefusion.serving.engines.health import EngineHealth, Health, HealthRules, PictureOutcome
from trt_facefusion.serving.engines.members import Member
from trt_facefusion.serving.engines.readings import Tally
from trt_facefusion.serving.seam import EngineState, TensorInterface
from trt_facefusion.swap.engines import ChainOptions, LoadedEngine, Rendered, find_fault
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.types import Array, Feeds

_SHORTEST_LIMIT_S = 10.0
_SLOWER = 20.0
_MOST_HANGING = 2
"""Abandoned threads of one engine, each of which still holds its memory, before it is no longer tried."""

T = TypeVar("T")
Answer = Rendered | str | TrtFaceFusionError | None
"""A sound picture; what is broken in it; why the face cannot be fed; None where the engine went out before it."""


@dataclass(frozen=True)
class PoolSettings:
    """How engines are run and watched.

    ``infer_limit_s`` is how long one inference may take; None takes 20 times what the probe took for as many faces, at
    least 10 s. ``open_limit_s`` is that of loading an engine with its first inference, ``file_check_s`` how often its
    files are looked at.
    """

    chain: ChainOptions = field(default_factory=ChainOptions)
    health: HealthRules = field(default_factory=HealthRules)
    infer_limit_s: float | None = None
    open_limit_s: float = 300.0
    file_check_s: float = 10.0


@dataclass(eq=False)
class Surroundings:
    """What the engines of one pool share: how they are fed, the probe, and who is told.

    ``reference`` is the picture [S,S,3] uint8 that the safest engine made of the probe: what others are held against.
    """

    contract: Contract
    embedder: Embedder
    probe: FaceInput
    settings: PoolSettings
    on_event: OnEvent = drop_event
    tally: Tally = field(default_factory=Tally)
    clock: Callable[[], float] = time.monotonic
    reference: NDArray[np.uint8] | None = None


class PooledEngine:
    """An engine that is out when it fails, and comes back. From any thread; its own lock holds its state together."""

    def __init__(self, member: Member, around: Surroundings) -> None:
        self.member, self._around = member, around
        self.health = EngineHealth(around.settings.health)
        self._lock = threading.RLock()
        self._thread: EngineThread | None = None
        self._engine: LoadedEngine | None = None
        self._hanging: list[EngineThread] = []
        self._limit_s = around.settings.infer_limit_s or _SHORTEST_LIMIT_S
        self._signature = _sign(member)
        self._disk_fault: str | None = None
        self._closed = False
        for kind in ("raised", "hung", "broken"):
            self._count("engine_faults_total", 0, kind=kind)
        for outcome in ("passed", "failed"):
            self._count("engine_probes_total", 0, outcome=outcome)

    @property
    def label(self) -> str:
        """What it is called."""
        return self.member.label

    @property
    def serves(self) -> bool:
        """Whether it is asked for pictures."""
        return self.health.state is Health.SERVING and self._engine is not None

    @property
    def batch(self) -> int:
        """Faces of one inference; 1 while it is not loaded."""
        engine = self._engine
        return 1 if engine is None else engine.batch

    def open(self) -> None:
        """Load and try it for the first time; where that fails it is out, and tried again later.

        Raises:
            TrtFaceFusionError: why it failed.
        """
        try:
            self._load(self.member.opened)
        except TrtFaceFusionError as error:
            self._take_out(self._shorten(error.message), EventKind.ENGINE_OUT)
            raise

    def render(self, faces: Sequence[FaceInput], *, patient: bool = False) -> list[Answer]:
        """One answer for each of ``faces``. The ``patient`` let others go first between inferences."""
        answers: list[Answer] = []
        while len(answers) < len(faces):
            batch = faces[len(answers) : len(answers) + self.batch]
            answers += self._render_batch(batch, patient)
        return answers

    def infer(self, feeds: Feeds) -> dict[str, Array] | str | None:
        """Outputs of the network by name; what is broken in them; None where the engine is out.

        Raises:
            BadInputError: ``feeds`` are not what the network takes.
        """
        outputs = self._guard(lambda loaded: loaded.runner.infer(feeds))
        broken = [] if outputs is None else [name for name, tensor in outputs.items() if not np.isfinite(tensor).all()]
        return f"NaN or infinite values in {broken[0]!r}" if broken else outputs

    @property
    def tensors(self) -> TensorInterface | None:
        """What its network takes and gives; None while it is not loaded."""
        engine, manifest = self._engine, self.member.opened.manifest
        if engine is None:
            return None
        platform = "onnxruntime" if manifest is None else manifest.backend
        runner = engine.runner
        return TensorInterface(runner.inputs, runner.outputs, engine.batch, self.label, self.member.precision, platform)

    def record(self, outcomes: Iterable[PictureOutcome]) -> None:
        """Count what became of its pictures; it is out where too many were broken, tried where none was sound."""
        kinds = list(outcomes)
        self._count("engine_faults_total", kinds.count(PictureOutcome.BROKEN), kind="broken")
        with self._lock:
            reason = self.health.record(kinds)
            if reason is not None:
                self._take_out(reason, EventKind.ENGINE_OUT)
            suspect = self.serves and self.health.is_suspect
        if suspect:
            self._try_loaded()

    def retry_if_due(self) -> None:
        """Where its back-off is over: check its files, load it again, try it with the probe, behind this call.

        Each engine in a thread of its own: a probe that hangs keeps no other engine from coming back.
        """
        with self._lock:
            if self._closed or not self.health.is_due(self._around.clock()):
                return
            self._hanging = [thread for thread in self._hanging if thread.is_alive]
            self.health.begin_probe()
        threading.Thread(target=self._retry, name=f"trt-ff probe {self.label}", daemon=True).start()

    def check_file(self) -> None:
        """Notice that its file on the disk was replaced, cut short or removed; what is loaded serves on."""
        signature = _sign(self.member)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self.member.reopen()
            self._disk_fault = None
        except TrtFaceFusionError as error:
            self._disk_fault = self._shorten(error.message)
            message = f"{self.label} is served from memory, and cannot be loaded again: {self._disk_fault}"
            tell(self._around.on_event, EventKind.FILE_CHANGED, self.label, message)

    def describe(self, role: str) -> EngineState:
        """How it is."""
        with self._lock:
            health = self.health
            state = Health.OUT.value if health.state is Health.PROBING else health.state.value
            reason = health.reason or self._disk_fault
            return EngineState(
                self.label, self.member.precision, role, state, reason, health.count_wait(self._around.clock())
            )

    def close(self) -> None:
        """Free it for good; one that hangs is left behind."""
        with self._lock:
            self._closed = True
        self._unload()

    def _retry(self) -> None:
        try:
            if len(self._hanging) >= _MOST_HANGING:
                raise DeviceError(f"{len(self._hanging)} earlier inferences of it still hang", "restart the service")
            self._load(self.member.reopen())
        except Exception as error:  # whatever it is: an engine that stays in its probe would never come back
            self._count("engine_probes_total", outcome="failed")
            self._take_out(self._shorten(_explain(error)), EventKind.PROBE_FAILED)
            return
        with self._lock:
            if self._closed:
                self._unload()
                return
            self.health.bring_back()
        self._count("engine_probes_total", outcome="passed")
        tell(self._around.on_event, EventKind.ENGINE_BACK, self.label, f"{self.label} serves again")

    def _unload(self) -> None:
        thread, self._thread, self._engine = self._thread, None, None
        if thread is not None:
            thread.end(self._limit_s)

    def _load(self, opened: OpenedModel) -> None:
        """Open ``opened`` in a new thread and try it; it replaces what was loaded before."""
        self._unload()
        engines: list[LoadedEngine] = []
        around = self._around

        def load() -> tuple[Rendered, float]:
            engines.append(LoadedEngine(opened, around.contract, around.embedder, around.settings.chain))
            feeds = engines[0].prepare([around.probe])
            engines[0].infer(feeds, 1)  # the first one is slow on GPUs
            started = time.perf_counter()
            return engines[0].infer(feeds, 1)[0], time.perf_counter() - started

        def free() -> None:
            while engines:
                engines.pop().runner.close()

        thread = EngineThread(self.label, free)
        try:
            rendered, seconds = thread.call(load, around.settings.open_limit_s)
            self._judge_probe(engines[0], rendered)
        except BaseException as error:
            self._leave(thread, hangs=isinstance(error, EngineHungError))
            if isinstance(error, TrtFaceFusionError) or not isinstance(error, Exception):
                raise
            raise DeviceError(f"{self.label} could not be tried: {_explain(error)}", "see the log") from error
        with self._lock:
            self._thread, self._engine, self._disk_fault = thread, engines[0], None
            self._signature = _sign(self.member)
            shortest = max(_SHORTEST_LIMIT_S, _SLOWER * seconds * engines[0].batch)
            self._limit_s = around.settings.infer_limit_s or shortest

    def _judge_probe(self, engine: LoadedEngine, rendered: Rendered) -> None:
        """Raise DeviceError for a broken picture of the probe. The first that is finite becomes the reference."""
        picture, around = rendered.picture, self._around
        fault = None
        if around.reference is not None:
            fault = find_fault(picture, around.reference, reduced=engine.is_reduced)
        elif np.isfinite(picture).all():
            around.reference = (picture.clip(0, 1) * 255).round().astype(np.uint8)
        else:
            fault = "NaN or infinite values"
        if fault is not None:
            raise DeviceError(f"{self.label} gave {fault} for a face that it is tried with", "build the engine again")

    def _try_loaded(self) -> None:
        """Let the engine as it is loaded render the probe; it is out where that is broken, too."""
        engine, thread, probe = self._engine, self._thread, [self._around.probe]
        rendered = self._guard(lambda loaded: loaded.infer(loaded.prepare(probe), 1))
        if engine is None or thread is None or rendered is None:
            return
        try:
            self._judge_probe(engine, rendered[0])
        except DeviceError as error:
            self._fail("broken", error.message, thread)
        else:
            with self._lock:
                self.health.clear_suspicion()

    def _render_batch(self, faces: Sequence[FaceInput], patient: bool) -> list[Answer]:
        engine = self._engine
        if engine is None:
            return [None] * len(faces)
        try:
            feeds = engine.prepare(faces)
        except Exception as error:
            return self._isolate(faces, error, patient)
        try:
            rendered = self._guard(lambda loaded: loaded.infer(feeds, len(faces)), patient)
        except BadInputError as error:
            return self._isolate(faces, error, patient)
        if rendered is None:
            return [None] * len(faces)
        faults = engine.find_faults(faces, rendered)
        return [fault or result for fault, result in zip(faults, rendered, strict=True)]

    def _guard(self, work: Callable[[LoadedEngine], T], patient: bool = False) -> T | None:
        """What ``work`` gives in the engine's thread; None where the engine is out, or is out by this.

        Raises:
            BadInputError: what was fed is at fault.
        """
        with self._lock:
            engine, thread, limit_s = self._engine, self._thread, self._limit_s
        if engine is None or thread is None or not self.serves:
            return None
        try:
            return thread.call(lambda: work(engine), limit_s, patient=patient)
        except EngineHungError:
            self._fail("hung", f"an inference took more than {limit_s:.3g} s", thread)
        except EngineLeftError:
            pass  # whoever it hung on has said so
        except Exception as error:
            if type(error) is BadInputError:  # its subclasses (ModelError) are the engine's
                raise
            self._fail("raised", _explain(error), thread)
        return None

    def _isolate(self, faces: Sequence[FaceInput], error: Exception, patient: bool) -> list[Answer]:
        """Answers of faces one of which cannot be fed: that one alone gets the error."""
        if len(faces) > 1:
            return [answer for face in faces for answer in self._render_batch([face], patient)]
        if isinstance(error, TrtFaceFusionError):
            return [error]
        return [BadInputError(f"the face cannot be fed to the generator: {_explain(error)}", "take another photo")]

    def _fail(self, kind: str, what: str, thread: EngineThread) -> None:
        with self._lock:
            if thread is not self._thread:
                return  # another caller was faster
            self._thread = self._engine = None
        self._count("engine_faults_total", kind=kind)
        self._leave(thread, hangs=kind == "hung")
        self._take_out(self._shorten(what), EventKind.ENGINE_OUT)

    def _leave(self, thread: EngineThread, *, hangs: bool) -> None:
        if hangs:
            self._hanging.append(thread)
        else:
            thread.end(limit_s=0)

    def _take_out(self, reason: str, kind: EventKind) -> None:
        with self._lock:
            now = self._around.clock()
            self.health.take_out(reason, now)
            wait = self.health.count_wait(now) or 0
        tell(self._around.on_event, kind, self.label, f"{self.label} is out: {reason}; tried again in {wait:.0f} s")

    def _shorten(self, message: str) -> str:
        """``message`` without the folders of this machine: it is shown to whoever asks whether the service is ready."""
        return message.replace(f"{self.member.path.resolve()}", self.label).replace(f"{self.member.path}", self.label)

    def _count(self, name: str, count: int = 1, **labels: str) -> None:
        self._around.tally.add(name, count, engine=self.label, **labels)


def _explain(error: BaseException) -> str:
    if isinstance(error, EngineHungError):
        return "it did not answer in time"
    text = error.message if isinstance(error, TrtFaceFusionError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]


def _sign(member: Member) -> tuple[int, int, int] | None:
    """Changes when the engine's file is another one; None where there is none."""
    with suppress(OSError):
        status = member.opened.engine.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None
