"""The engine that swaps, and behind it the safer ones of the same model, for pictures that come out broken.

FP16 and INT8 engines can give NaN (which becomes black) or collapse to one flat colour on single faces though they are
right on all that they were judged on. No such picture leaves here: the face is rendered again by the next precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.store.machine import ask_machine_if_any
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import BadInputError, GateError, StoreError
from trt_facefusion.faces.embedder import DlibEmbedder, Embedder
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.inference.renderer import find_picture
from trt_facefusion.inference.select import select_engine
from trt_facefusion.model.presets import ImageOutput
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.storage.files import digest_regular
from trt_facefusion.swap.feeds import FaceFeeds, FaceInput
from trt_facefusion.types import Feeds, Image, Note, Precision, drop_note

BATCH = 4
"""Faces at a time where an engine takes any number and nothing says which is usual."""
_LEAST_SPREAD = 2 / 255
_LEAST_SHARE = 0.25
"""A GFPGAN engine in FP16 that was known to be broken kept 0.245 of the deviation of what it should have shown. What is
as flat in FP32 is the network's own picture."""


@dataclass(frozen=True, eq=False)
class Rendered:
    """A picture [S,S,3] float32 (RGB, nominally 0..1) and the network's own mask [H,W] in 0..1, or None."""

    picture: NDArray[np.float32]
    mask: NDArray[np.float32] | None


@dataclass(frozen=True)
class ChainOptions:
    """Where engines run: number of the GPU, CPU threads, the typed ONNX on the CPU in place of a GPU engine."""

    device: int = 0
    threads: int | None = None
    stand_in: bool = False


class LoadedEngine:
    """An engine that renders faces."""

    def __init__(self, opened: OpenedModel, contract: Contract, embedder: Embedder, options: ChainOptions) -> None:
        self.opened = opened
        self.runner: Runner = opened.open_runner(
            device=options.device,
            threads=options.threads,
            stand_in=options.stand_in and opened.needs_gpu,
        )
        try:
            self.feeds = FaceFeeds(contract, self.runner.inputs, embedder)
            self.output: ImageOutput = find_picture(contract.preset, self.runner.outputs)
            self.batch, self._least = self._find_batches(opened.manifest)
        except BaseException:
            self.runner.close()
            raise

    @property
    def is_reduced(self) -> bool:
        """Whether it was built in less than FP32."""
        manifest = self.opened.manifest
        return manifest is not None and manifest.precision != Precision.FP32.value

    def render(self, faces: Sequence[FaceInput]) -> list[Rendered]:
        """One picture for each of ``faces``, ``batch`` at a time."""
        pictures: list[Rendered] = []
        for start in range(0, len(faces), self.batch):
            pictures += self._render_batch(faces[start : start + self.batch])
        return pictures

    def prepare(self, faces: Sequence[FaceInput]) -> Feeds:
        """What one inference takes of ``faces``, at most ``batch``; fewer than the engine takes are repeated."""
        return self.feeds([faces[index % len(faces)] for index in range(max(len(faces), self._least))])

    def infer(self, feeds: Feeds, count: int) -> list[Rendered]:
        """The pictures of the ``count`` faces that ``feeds`` were prepared of."""
        outputs = self.runner.infer(feeds)
        pictures = self.output.decode(outputs[str(self.output.name)])
        masks = self.output.decode_mask(outputs)
        return [Rendered(pictures[i], None if masks is None else masks[i]) for i in range(count)]

    def find_faults(self, faces: Sequence[FaceInput], rendered: Sequence[Rendered]) -> list[str | None]:
        """What is broken in each of the pictures ``rendered`` of ``faces`` (see `find_fault`)."""
        preset = self.feeds.contract.preset
        crop = preset.crop(preset.image)
        return [
            find_fault(result.picture, face.crops[crop], reduced=self.is_reduced)
            for face, result in zip(faces, rendered, strict=True)
        ]

    def _render_batch(self, faces: Sequence[FaceInput]) -> list[Rendered]:
        return self.infer(self.prepare(faces), len(faces))

    def _find_batches(self, manifest: Manifest | None) -> tuple[int, int]:
        """The usual and the smallest number of faces at a time."""
        fixed = self.feeds.fixed_batch
        if fixed is not None:
            return fixed, fixed
        if manifest is None:
            return BATCH, 1
        shapes = [shape for name, shape in manifest.shapes.items() if self.feeds.fits[name].batched]
        lowest = max((low[0] for low, _, _ in shapes), default=1)
        return max(manifest.usual_batch, lowest), lowest


def find_fault(picture: NDArray[np.float32], target: Image, *, reduced: bool = True) -> str | None:
    """What is broken in ``picture`` [S,S,3] (0..1), made of the crop ``target`` [S,S,3]; None where nothing is.

    ``reduced``: by an engine of reduced precision, which must keep some of the target's contrast.
    """
    if not np.isfinite(picture).all():
        return "NaN or infinite values"
    spread = float(np.clip(picture, 0, 1).std(axis=(0, 1)).max())
    expected = float(target.std(axis=(0, 1)).max()) / 255
    if spread < max(_LEAST_SPREAD, _LEAST_SHARE * expected if reduced else 0):
        return f"a flat picture (deviation {spread * 255:.1f} of 255, of the target {expected * 255:.1f})"
    return None


class EngineChain:
    """The engine at ``path``, and the safer ones of its model in the store.

    Args:
        path: an engine's or a model's folder, or an ONNX file.
        precision: which of a model's engines.
        contract: how an ONNX file is fed; engines say it themselves.
        options: where engines run.
        note: takes messages; each fall-back is told with what was wrong.

    Raises: as `open_model`; BadInputError where nothing says how an ONNX file is fed.
    """

    def __init__(
        self,
        path: Path,
        precision: Precision | None = None,
        contract: Contract | None = None,
        options: ChainOptions | None = None,
        note: Note = drop_note,
    ) -> None:
        self.options, self.note = options or ChainOptions(), note
        opened = open_model(path, precision, self.options.device, stand_in=self.options.stand_in)
        for message in opened.notes:
            note(message)
        settled = opened.contract or contract
        if settled is None:
            raise BadInputError(
                f"nothing says how {path} is fed", "name a --preset, or describe its inputs with --input"
            )
        self.contract, self._first = settled, opened
        self._loaded: list[LoadedEngine] = []
        self._ended = False
        self.embedder: Embedder = DlibEmbedder()
        """What identities are embedded with."""
        self.fallbacks: dict[str, int] = {}
        """How many faces each of the safer engines rendered, by its label."""

    @property
    def label(self) -> str:
        """The engine that was asked for."""
        return self._first.label

    @property
    def digest(self) -> str:
        """Changes with the engine: the key of a stored one, the sha256 of an ONNX file."""
        manifest = self._first.manifest
        if manifest is not None:
            return manifest.build_key
        return digest_regular(self._first.engine, "model").hex()

    @property
    def first(self) -> LoadedEngine:
        """The engine that was asked for, loaded on first use."""
        engine = self._get(0)
        assert engine is not None
        return engine

    def render(self, faces: Sequence[FaceInput], name: Callable[[int], str] = str) -> list[Rendered]:
        """Sound pictures of ``faces``; ``name`` says what a face is called in messages.

        Raises:
            GateError: a picture is broken whichever engine makes it.
        """
        results: dict[int, Rendered] = {}
        pending, level = list(range(len(faces))), 0
        while pending:
            engine = self._get(level)
            if engine is None:
                raise self._give_up([name(number) for number in pending])
            chosen = [faces[number] for number in pending]
            rendered = engine.render(chosen)
            faults = engine.find_faults(chosen, rendered)
            results |= {n: r for n, r, fault in zip(pending, rendered, faults, strict=True) if fault is None}
            broken = [(n, fault) for n, fault in zip(pending, faults, strict=True) if fault is not None]
            self._tell(engine, broken, name, rescued=len(pending) - len(broken) if level else 0)
            pending, level = [number for number, _ in broken], level + 1
        return [results[number] for number in range(len(faces))]

    def close(self) -> None:
        """Close all engines."""
        while self._loaded:
            self._loaded.pop().runner.close()

    def _get(self, level: int) -> LoadedEngine | None:
        while level >= len(self._loaded):
            opened = self._first if not self._loaded else self._find_safer(self._loaded[-1].opened)
            if opened is None:
                return None
            contract = opened.contract or self.contract
            self._loaded.append(LoadedEngine(opened, contract, self.embedder, self.options))
        return self._loaded[level]

    def _find_safer(self, opened: OpenedModel) -> OpenedModel | None:
        """The next safer engine of the same model that runs here, or None."""
        manifest = opened.manifest
        precision = None if manifest is None else Precision(manifest.precision).safer
        if manifest is None or precision is None:
            return None
        folder = opened.engine.parent.parent
        try:
            machine = ask_machine_if_any(self.options.device)
            selection = select_engine(folder, machine, precision, stand_in=self.options.stand_in)
        except StoreError:
            return None
        same_model = selection.manifest.inputs.model_sha256 == manifest.inputs.model_sha256
        order = list(Precision)
        is_safer = order.index(Precision(selection.manifest.precision)) >= order.index(precision)
        return open_model(selection.folder) if same_model and is_safer else None

    def _tell(
        self, engine: LoadedEngine, broken: Sequence[tuple[int, str]], name: Callable[[int], str], rescued: int
    ) -> None:
        if rescued:
            label = engine.opened.label
            self.fallbacks[label] = self.fallbacks.get(label, 0) + rescued
            self.note(f"warning: {label} took over for {rescued} face{'' if rescued == 1 else 's'}")
        for number, fault in broken:
            self.note(f"warning: {name(number)}: {engine.opened.label} gave {fault}; nothing of it is shown")

    def _give_up(self, names: Sequence[str]) -> GateError:
        tried = ", ".join(engine.opened.label for engine in self._loaded)
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        manifest = self._first.manifest
        command = "build an FP32 engine of this model, which is then used in its place"
        if manifest is not None and len(self._loaded) < len(list(Precision)):
            command += f": {manifest.rebuild_command().replace(f'--{manifest.requested_precision}', '--fp32', 1)}"
        return GateError(f"{shown}: the picture is broken (NaN, or flat), whichever engine makes it ({tried})", command)
