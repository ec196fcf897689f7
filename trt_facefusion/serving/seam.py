"""What the queue asks for, and what answers: faces in, pictures out, each with the engine that made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.swap.engines import Rendered
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.types import Array, Feeds, TensorSpec


@dataclass(frozen=True, eq=False)
class ServedFace:
    """A sound picture of one face, the label and the precision of the engine that made it, and why that one."""

    rendered: Rendered
    engine: str
    precision: str
    role: str
    """``baseline``, ``candidate``, or ``fallback``: one of them gave nothing sound."""


@dataclass(frozen=True)
class EngineState:
    """How an engine is: ``serving``, or ``out`` with the reason and the seconds until it is tried again."""

    engine: str
    precision: str
    role: str
    state: str
    reason: str | None = None
    retry_s: float | None = None


class ServesFaces(Protocol):
    """Engines behind one name. All calls come from one thread, but for `describe`."""

    @property
    def contract(self) -> Contract:
        """How all of them are fed."""

    @property
    def batch(self) -> int:
        """As many faces as go into one inference."""

    def serve(self, faces: Sequence[FaceInput], requests: Sequence[str]) -> list[ServedFace | TrtFaceFusionError]:
        """A picture of each face, or why there is none; ``requests`` says to which request each belongs."""

    def describe(self) -> Sequence[EngineState]:
        """How the engines are; from any thread."""

    def close(self) -> None:
        """Free them."""


@dataclass(frozen=True)
class TensorInterface:
    """What a network takes and gives by itself, and which engine runs it; ``batch`` is as many as go in together."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int
    engine: str
    precision: str
    platform: str


@runtime_checkable
class RunsTensors(Protocol):
    """Engines whose baseline also takes the network's own tensors; called as `ServesFaces` is."""

    @property
    def tensors(self) -> TensorInterface:
        """Of the engine that would run now."""

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name. Raises BadInputError where ``feeds`` are not what the network takes."""


@runtime_checkable
class StatesReadings(Protocol):
    """Engines with figures of their own."""

    def read_metrics(self) -> Iterable[tuple[str, Mapping[str, str], float]]:
        """Name, labels and value of each; names that end with ``_total`` only ever grow. From any thread."""
