"""One engine, and the safer ones of its model, as what answers: `swap.engines.EngineChain` behind the seam."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trt_facefusion.errors import GateError, TrtFaceFusionError
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.serving.seam import EngineState, ServedFace, TensorInterface
from trt_facefusion.swap.engines import ChainOptions, EngineChain, LoadedEngine
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.types import Array, Feeds, Note, Precision, drop_note

_SERVING, _BASELINE, _FALLBACK = "serving", "baseline", "fallback"


class SingleEngine:
    """The engine at ``path``: what `EngineChain` takes, and what `open_embedder` takes beside the preset.

    Raises: as both, and what loading the engine raises.
    """

    def __init__(
        self,
        path: Path,
        precision: Precision | None = None,
        contract: Contract | None = None,
        options: ChainOptions | None = None,
        *,
        embedder: Path | None = None,
        converter: Path | None = None,
        note: Note = drop_note,
    ) -> None:
        self._chain = EngineChain(path, precision, contract, options, note)
        self._chain.embedder = open_embedder(self.contract.preset, embedder, converter)
        self._engine: LoadedEngine = self._chain.first
        self._state = EngineState(self._chain.label, self._precision, _BASELINE, _SERVING)

    @property
    def contract(self) -> Contract:
        """How it is fed."""
        return self._chain.contract

    @property
    def batch(self) -> int:
        """As many faces as go into one inference."""
        return self._engine.batch

    @property
    def tensors(self) -> TensorInterface:
        """What the network takes and gives by itself."""
        manifest, runner = self._engine.opened.manifest, self._engine.runner
        platform = "onnxruntime" if manifest is None else manifest.backend
        return TensorInterface(runner.inputs, runner.outputs, self.batch, self._chain.label, self._precision, platform)

    def serve(self, faces: Sequence[FaceInput], requests: Sequence[str]) -> list[ServedFace | TrtFaceFusionError]:
        """A picture of each face, or why there is none."""
        before = dict(self._chain.fallbacks)
        try:
            rendered = self._chain.render(faces)
        except GateError as error:
            return [error] if len(faces) == 1 else [self._serve_alone(face) for face in faces]
        if self._chain.fallbacks != before and len(faces) > 1:
            return [self._serve_alone(face) for face in faces]  # so that it is known who made which
        safer = [label for label, count in self._chain.fallbacks.items() if count != before.get(label)]
        label, role = (safer[0], _FALLBACK) if safer else (self._chain.label, _BASELINE)
        return [ServedFace(picture, label, self._find_precision(label), role) for picture in rendered]

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs of the network by name. Raises BadInputError where ``feeds`` are not what it takes."""
        return self._engine.runner.infer(feeds)

    def describe(self) -> Sequence[EngineState]:
        """How the engine is."""
        return [self._state]

    def close(self) -> None:
        """Free it."""
        self._chain.close()

    def _serve_alone(self, face: FaceInput) -> ServedFace | TrtFaceFusionError:
        return self.serve([face], [""])[0]

    @property
    def _precision(self) -> str:
        manifest = self._engine.opened.manifest
        return Precision.FP32.value if manifest is None else manifest.precision

    def _find_precision(self, label: str) -> str:
        if label == self._chain.label:
            return self._precision
        return next((p.value for p in Precision if label.rpartition("/")[2].startswith(p.value)), "unknown")
