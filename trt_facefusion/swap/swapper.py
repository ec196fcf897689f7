"""Photo in, photo out: the steps of a swap, in order, on one engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.swap.engines import ChainOptions, EngineChain, Rendered
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.swap.identity import Identity
from trt_facefusion.swap.photo import Photo
from trt_facefusion.swap.provenance import Provenance
from trt_facefusion.swap.selection import FaceSelection
from trt_facefusion.swap.steps import FaceTask, Picture, SwappedPhoto, SwapSettings, SwapSteps
from trt_facefusion.types import Note, Precision, drop_note

__all__ = ["FaceTask", "Picture", "SwapSettings", "SwappedPhoto", "Swapper"]


class Swapper(SwapSteps):
    """Swaps faces with one engine; a context manager that frees what it holds.

    Args:
        engine: an engine's or a model's folder, or an ONNX file.
        precision: which of a model's engines; the cheapest that fits the machine where none is named.
        settings: mask and colours.
        embedder: the ONNX file whose embeddings the generator takes, where it takes ArcFace's.
        converter: the ONNX file that converts them first, where a preset asks for one.
        detector: an SCRFD or RetinaFace ONNX file; YuNet without one.
        contract: how an ONNX file is fed; engines say it themselves.
        options: where engines run.
        provenance: what the results are marked with.
        note: takes messages for the user.

    Raises: as `open_model`, `open_embedder` and `open_detector`.
    """

    def __init__(
        self,
        engine: str | Path,
        precision: Precision | None = None,
        *,
        settings: SwapSettings | None = None,
        embedder: Path | None = None,
        converter: Path | None = None,
        detector: Path | None = None,
        contract: Contract | None = None,
        options: ChainOptions | None = None,
        provenance: Provenance | None = None,
        note: Note = drop_note,
    ) -> None:
        self.engines = EngineChain(Path(engine), precision, contract, options, note)
        super().__init__(
            self.engines.contract,
            settings=settings,
            embedder=embedder,
            converter=converter,
            detector=detector,
            provenance=provenance,
            note=note,
        )
        self.engines.embedder = self.embedder

    def swap(
        self,
        source: Picture | Sequence[Picture] | Identity | None,
        target: Picture | Photo,
        faces: str | FaceSelection = "largest",
    ) -> SwappedPhoto:
        """``target`` with the person of ``source`` (several photos of one person are averaged).

        Args:
            source: photos, or what `learn` gave; None for restorers.
            target: the photo.
            faces: ``largest``, ``all``, or what `look_for` gave.

        Raises:
            FacesError: a photo cannot be read, the source shows no face, or no face of the target is to be swapped.
            GateError: the picture is broken whichever engine makes it.
        """
        prepared = self.prepare(source, target, faces)
        return self.complete(prepared, self.render(prepared.tasks, prepared.identity))

    def render(self, tasks: Sequence[FaceTask], identity: Identity | None) -> list[Rendered]:
        """The pictures of ``tasks``; none of them broken.

        Raises:
            GateError: one is, whichever engine makes it.
        """
        with self.times.measure("infer"):
            faces = [FaceInput(task.crops, identity) for task in tasks]
            return self.engines.render(faces, lambda number: tasks[number].name)

    def close(self) -> None:
        """Free the engines."""
        self.engines.close()

    def __enter__(self) -> Swapper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
