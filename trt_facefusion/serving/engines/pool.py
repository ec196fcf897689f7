"""Engines of several precisions behind one name: what one of them cannot do, the next safer one does.

    pool = EnginePool([Path("engines/swap")])
    pool.serve(faces, requests)

The cheapest engine that passed its gate answers (``baseline``). A face that it gives no sound picture of is rendered by
the next (``fallback``). What happens to the engines is `health`'s to decide; a keeper, in a thread of its own, tries
again those that are out, and looks at the files of all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trt_facefusion.errors import GateError, NoEngineError, TrtFaceFusionError
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.serving.engines.events import EventKind, OnEvent, drop_event, tell
from trt_facefusion.serving.engines.health import PictureOutcome
from trt_facefusion.serving.engines.members import Member, find_members, keep_from
from trt_facefusion.serving.engines.pooled import Answer, PooledEngine, PoolSettings, Surroundings
from trt_facefusion.serving.engines.probe import make_probe
from trt_facefusion.serving.engines.readings import Reading
from trt_facefusion.serving.seam import EngineState, ServedFace, TensorInterface
from trt_facefusion.swap.engines import Rendered
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.types import Array, Feeds, Note, Precision, drop_note

BASELINE, CANDIDATE, FALLBACK = "baseline", "candidate", "fallback"
_TICK_S = 0.25


@dataclass(eq=False)
class _Attempt:
    """What each engine that was asked made of each face, by its number."""

    answers: dict[int, ServedFace | TrtFaceFusionError] = field(default_factory=dict)
    broken: dict[PooledEngine, dict[int, str]] = field(default_factory=dict)
    sound: dict[PooledEngine, int] = field(default_factory=dict)

    def take(self, engine: PooledEngine, role: str, answers: Mapping[int, Answer]) -> None:
        """Add what ``engine`` gave."""
        self.sound[engine], self.broken[engine] = 0, {}
        for number, answer in answers.items():
            if isinstance(answer, Rendered):
                self.sound[engine] += 1
                self.answers[number] = ServedFace(answer, engine.label, engine.member.precision, role)
            elif isinstance(answer, TrtFaceFusionError):
                self.answers[number] = answer
            elif answer is not None:
                self.broken[engine][number] = answer

    def judge(self, engine: PooledEngine) -> list[PictureOutcome]:
        """What became of the pictures of ``engine``: another's sound one speaks against a broken one."""
        outcomes = [PictureOutcome.SOUND] * self.sound[engine]
        for number in self.broken[engine]:
            outcomes.append(PictureOutcome.BROKEN if self.is_rescued(number) else PictureOutcome.DISPUTED)
        return outcomes

    def is_rescued(self, number: int) -> bool:
        """Whether an engine gave a sound picture of that face."""
        return isinstance(self.answers.get(number), ServedFace)


class EnginePool:
    """Engines of one model; opens all of them, so that none has to be waited for when it is needed.

    Args:
        paths: as `find_members`; or members.
        contract: how a bare ONNX file is fed.
        settings: how engines are run and watched.
        precision: that of the baseline; cheaper engines are left out.
        embedder: the ONNX file that embeds faces, where the generator takes ArcFace's vectors.
        converter: the ONNX file that converts them, where it takes one.
        on_event: is told what happens to engines.
        note: takes messages while the pool is opened.

    Raises: as `find_members` and `open_embedder`; the first engine's error where none can be opened.
    """

    def __init__(
        self,
        paths: Sequence[Path | Member],
        contract: Contract | None = None,
        settings: PoolSettings | None = None,
        precision: Precision | None = None,
        *,
        embedder: Path | None = None,
        converter: Path | None = None,
        on_event: OnEvent = drop_event,
        note: Note = drop_note,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = settings or PoolSettings()
        named = [path for path in paths if isinstance(path, Path)]
        members = [member for member in paths if isinstance(member, Member)]
        if named or not members:
            members += keep_from(find_members(named, contract, settings.chain.device, note), precision)
        settled = members[0].opened.contract
        assert settled is not None
        self.embedder: Embedder = open_embedder(settled.preset, embedder, converter)
        """What identities are embedded with."""
        probe = make_probe(settled.preset, self.embedder)
        self._around = Surroundings(settled, self.embedder, probe, settings, on_event, clock=clock)
        self.engines = [PooledEngine(member, self._around) for member in members]
        """The cheapest first."""
        self._open()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="trt-ff keeper", daemon=True)
        self._keeper.start()

    @property
    def contract(self) -> Contract:
        """How all of them are fed."""
        return self._around.contract

    @property
    def batch(self) -> int:
        """As many faces as go into one inference of the engine that answers now."""
        return next((engine.batch for engine in self.engines if engine.serves), 1)

    def serve(self, faces: Sequence[FaceInput], requests: Sequence[str]) -> list[ServedFace | TrtFaceFusionError]:
        """A sound picture of each face, or why there is none; ``requests`` decide nothing here."""
        return self.render(faces, self.engines, BASELINE)

    def render(
        self, faces: Sequence[FaceInput], engines: Sequence[PooledEngine], role: str, *, patient: bool = False
    ) -> list[ServedFace | TrtFaceFusionError]:
        """An answer for each face, of the first of ``engines`` (in the role ``role``) or of those behind it."""
        attempt = _Attempt()
        for level, engine in enumerate(engines):
            pending = [number for number in range(len(faces)) if number not in attempt.answers]
            if pending and engine.serves:
                answers = engine.render([faces[number] for number in pending], patient=patient)
                attempt.take(engine, FALLBACK if level else role, dict(zip(pending, answers, strict=True)))
        for engine in attempt.broken:
            engine.record(attempt.judge(engine))
            for number, fault in attempt.broken[engine].items():
                kind = EventKind.FACE_BROKEN if attempt.is_rescued(number) else EventKind.FACE_DISPUTED
                message = f"{engine.label} gave {fault} for a face; nothing of it is shown"
                tell(self._around.on_event, kind, engine.label, message)
        return [self._settle(number, attempt) for number in range(len(faces))]

    @property
    def tensors(self) -> TensorInterface:
        """Of the engine that would run now. Raises NoEngineError."""
        return self.describe_tensors(self.engines)

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs of the network by name, of the first engine that gives finite ones.

        Raises:
            BadInputError: ``feeds`` are not what the network takes.
            GateError, NoEngineError: no engine does.
        """
        return self.infer_by(self.engines, feeds)

    def infer_by(self, engines: Sequence[PooledEngine], feeds: Feeds) -> dict[str, Array]:
        """As `infer`, by the first of ``engines`` that can."""
        broken: list[PooledEngine] = []
        for engine in engines:
            outputs = engine.infer(feeds)
            if isinstance(outputs, dict):
                for earlier in broken:
                    earlier.record([PictureOutcome.BROKEN])
                engine.record([PictureOutcome.SOUND])
                self._around.tally.add("tensor_inferences_total", engine=engine.label)
                return outputs
            broken += [engine] if outputs is not None else []
        raise self._explain([engine.label for engine in broken])

    def describe_tensors(self, engines: Sequence[PooledEngine]) -> TensorInterface:
        """As `tensors`, of the first of ``engines`` that serves."""
        for engine in engines:
            interface = engine.tensors
            if engine.serves and interface is not None:
                return interface
        raise self._explain([])

    def describe(self) -> list[EngineState]:
        """How the engines are; from any thread."""
        return [engine.describe(FALLBACK if level else BASELINE) for level, engine in enumerate(self.engines)]

    def read_metrics(self) -> list[Reading]:
        """Counters, and whether each engine serves (``engine_up``); from any thread."""
        up = [Reading("engine_up", {"engine": engine.label}, float(engine.serves)) for engine in self.engines]
        return [*self._around.tally.read(), *up]

    def close(self) -> None:
        """Free all engines; those that hang are left behind."""
        self._ended.set()
        self._keeper.join(_TICK_S * 4)
        for engine in self.engines:
            engine.close()

    def _open(self) -> None:
        """The safest first: its picture of the probe is what those of the others are held against."""
        errors = []
        for engine in reversed(self.engines):
            try:
                engine.open()
            except TrtFaceFusionError as error:
                errors.append(error)
        if len(errors) == len(self.engines):
            for engine in self.engines:
                engine.close()
            raise errors[-1]

    def _settle(self, number: int, attempt: _Attempt) -> ServedFace | TrtFaceFusionError:
        answer = attempt.answers.get(number)
        if answer is None:
            answer = self._explain([e.label for e, broken in attempt.broken.items() if number in broken])
        if isinstance(answer, ServedFace):
            labels = {"engine": answer.engine, "precision": answer.precision, "role": answer.role}
            self._around.tally.add("engine_faces_total", **labels)
        else:
            self._around.tally.add("face_errors_total", kind=answer.kind)
        return answer

    def _explain(self, tried: Sequence[str]) -> TrtFaceFusionError:
        """Why there is no picture, when the engines ``tried`` gave broken ones."""
        if tried:
            return GateError(
                f"the picture is broken (NaN, or flat), whichever engine makes it ({', '.join(tried)})",
                "take another photo, or let the service have an FP32 engine of this model behind the others",
            )
        waits = [state.retry_s for state in self.describe() if state.retry_s is not None]
        soon = f" in {min(waits):.0f} s" if waits else ""
        return NoEngineError(
            "no engine of the service works at present",
            f"try again{soon}; the service's log and /readyz say why each is out",
        )

    def _keep(self) -> None:
        looked = self._around.clock()
        while not self._ended.wait(_TICK_S):
            look = self._around.clock() - looked >= self._around.settings.file_check_s
            for engine in self.engines:
                engine.retry_if_due()
                with suppress(Exception):  # nothing may end the keeper
                    if look:
                        engine.check_file()
            looked = self._around.clock() if look else looked
