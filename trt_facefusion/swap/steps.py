"""The steps of a swap, in order, but for the one in between: what renders the faces is up to whoever holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import BadInputError, FacesError
from trt_facefusion.faces.align import TEMPLATES, fit_similarity, warp
from trt_facefusion.faces.detector import Face
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.swap.colour import match_colours
from trt_facefusion.swap.detectors import Detector, open_detector
from trt_facefusion.swap.engines import Rendered
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.swap.identity import CropKey, Identity, read_identity
from trt_facefusion.swap.masks import MaskSettings, make_mask
from trt_facefusion.swap.paste import Patch, blend_photo, warp_patch
from trt_facefusion.swap.photo import Photo, read_photo
from trt_facefusion.swap.photo_file import encode_photo, find_kind
from trt_facefusion.swap.provenance import Provenance, Signer
from trt_facefusion.swap.selection import FaceSelection, choose_distance
from trt_facefusion.swap.timing import StepTimes
from trt_facefusion.types import Image, Note, drop_note

Picture = str | Path | Image
"""A photo: its file, or its pixels [H,W,3] uint8 RGB."""


@dataclass(frozen=True)
class SwapSettings:
    """How a swapped crop becomes part of the photo.

    ``colours`` brings its colours to those of the face that was there; None does it where another person is put in, and
    leaves restored faces as they are.
    """

    mask: MaskSettings = field(default_factory=MaskSettings)
    colours: bool | None = None


@dataclass(frozen=True, eq=False)
class FaceTask:
    """A face that is to be swapped: ``matrix`` [2,3] leads from the photo to the target's crop of ``size`` pixels."""

    matrix: NDArray[np.float64]
    size: int
    crops: Mapping[CropKey, Image]
    name: str = "a face"


@dataclass(frozen=True, eq=False)
class SwappedPhoto:
    """A photo with ``faces`` faces swapped; ``patches`` say where."""

    photo: Photo
    faces: int
    patches: tuple[Patch, ...]
    provenance: Provenance
    note: Note = drop_note

    @property
    def pixels(self) -> Image:
        """The photo [H,W,3] uint8 RGB."""
        return self.photo.rgb8

    def save(self, path: str | Path, signer: Signer | None = None) -> Path:
        """Write it as what the suffix says, in the photo's own depth and channels, marked as generated.

        Raises:
            BadInputError: the suffix names no kind that is written, or the signer does not sign it.
            StoreError: the file cannot be written; what was there before is as it was.
        """
        path = Path(path)
        kind = find_kind(path)
        encoded = encode_photo(self.photo, kind, self.provenance.mark, lambda text: self.note(f"{path.name}: {text}"))
        if signer is not None:
            encoded = signer.sign(encoded, kind, path.name)
        write_atomic(path, encoded, option="--out")
        return path


@dataclass(frozen=True, eq=False)
class PreparedSwap:
    """A photo whose faces were found and cut, and who is put in (None for restorers); only pictures are missing."""

    photo: Photo
    tasks: tuple[FaceTask, ...]
    identity: Identity | None

    @property
    def faces(self) -> list[FaceInput]:
        """What is rendered."""
        return [FaceInput(task.crops, self.identity) for task in self.tasks]


class SwapSteps:
    """Everything of a swap but the rendering; several threads may take steps at once.

    Args:
        contract: how the engines that render are fed.
        settings: mask and colours.
        embedder: the ONNX file whose embeddings the generator takes, where it takes ArcFace's.
        converter: the ONNX file that converts them first, where a preset asks for one.
        detector: an SCRFD or RetinaFace ONNX file; YuNet without one.
        provenance: what the results are marked with.
        note: takes messages for the user.

    Raises: as `open_embedder` and `open_detector`.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        settings: SwapSettings | None = None,
        embedder: Path | None = None,
        converter: Path | None = None,
        detector: Path | None = None,
        provenance: Provenance | None = None,
        note: Note = drop_note,
    ) -> None:
        self.settings, self.note = settings or SwapSettings(), note
        self.provenance = provenance or Provenance()
        self.preset = contract.preset
        self.detector: Detector = open_detector(detector)
        self.embedder: Embedder = open_embedder(self.preset, embedder, converter)
        self.times = StepTimes()

    def learn(self, *sources: Picture) -> Identity | None:
        """The person whom ``sources`` show; None where the generator takes none and none is named.

        Raises:
            BadInputError: the generator needs a source, and none is named.
            FacesError: a source cannot be read, or shows no face.
        """
        if not self.preset.swaps:
            return None
        if not sources:
            raise BadInputError(
                f"the generator {self.preset.name!r} puts another person in, and no photo says whom",
                "name a photo of that person with --source",
            )
        keys = [self.preset.crop(image) for image in self.preset.images]
        photos = [Path(source) if isinstance(source, str) else source for source in sources]
        return read_identity(photos, self.detector, self.embedder, keys)

    def look_for(self, *people: Picture, faces: str = "largest", distance: float | None = None) -> FaceSelection:
        """The selection of those faces only that show one of ``people`` (photos; without any, of all).

        Raises:
            FacesError: a photo cannot be read, or shows no face.
            BadInputError: ``faces`` is neither ``largest`` nor ``all``.
        """
        if not people:
            return FaceSelection(faces)
        known = [self.embedder.make_comparable(self._read_person(person)[None]) for person in people]
        limit = choose_distance(self.embedder) if distance is None else distance
        return FaceSelection(faces, np.concatenate(known), limit)

    def prepare(
        self,
        source: Picture | Sequence[Picture] | Identity | None,
        target: Picture | Photo,
        faces: str | FaceSelection = "largest",
    ) -> PreparedSwap:
        """The faces of ``target`` that are swapped, cut, and the person of ``source``; as `Swapper.swap` takes them.

        Raises:
            FacesError: a photo cannot be read, the source shows no face, or no face of the target is to be swapped.
            BadInputError: the generator needs a source, and none is named.
        """
        identity = source if isinstance(source, Identity) else self.learn(*_list_pictures(source))
        photo, name = self._read_target(target)
        selection = FaceSelection(faces) if isinstance(faces, str) else faces
        seen = photo.rgb8
        chosen = self.find_faces(seen, selection)
        if not chosen:
            raise FacesError(f"{name} shows no face that is to be swapped", _explain_selection(selection))
        tasks = [self.cut(seen, face, f"{name}, face {number}") for number, face in enumerate(chosen, 1)]
        return PreparedSwap(photo, tuple(tasks), identity)

    def complete(self, prepared: PreparedSwap, rendered: Sequence[Rendered]) -> SwappedPhoto:
        """The photo with the pictures of its faces; ``prepared`` stays as it is."""
        swapped = prepared.photo.copy()
        patches = self.paste(swapped, prepared.tasks, rendered)
        return SwappedPhoto(swapped, len(prepared.tasks), patches, self.provenance, self.note)

    def find_faces(self, image: Image, selection: FaceSelection) -> list[Face]:
        """The faces in ``image`` [H,W,3] that are swapped, the largest first."""
        with self.times.measure("detect"):
            faces = self.detector.detect(image)
        with self.times.measure("match"):
            return selection.select(image, faces, self.embedder)

    def cut(self, image: Image, face: Face, name: str = "a face") -> FaceTask:
        """The crops of ``face`` that the generator takes."""
        with self.times.measure("align"):
            keys = {key: self._fit(face, key) for key in self.preset.crops}
            crops = {key: warp(image, matrix, key[1]) for key, matrix in keys.items()}
        target = self.preset.crop(self.preset.image)
        return FaceTask(keys[target], target[1], crops, name)

    def paste(self, photo: Photo, tasks: Sequence[FaceTask], rendered: Sequence[Rendered]) -> tuple[Patch, ...]:
        """Blend the pictures into ``photo``, whose pixels change; says where."""
        height, width = photo.pixels.shape[:2]
        patches = []
        for task, result in zip(tasks, rendered, strict=True):
            patch = self.make_patch(task, result, height, width, deep=photo.full > 255)
            if patch is not None:
                with self.times.measure("paste"):
                    blend_photo(photo, patch)
                patches.append(patch)
        return tuple(patches)

    def make_patch(
        self, task: FaceTask, rendered: Rendered, height: int, width: int, *, deep: bool = False
    ) -> Patch | None:
        """A picture, its colours matched, as it lies in a photo [height,width]; None outside of it."""
        template, size = self.preset.crop(self.preset.image)
        picture = rendered.picture
        matrix = _scale(task.matrix, picture.shape[0] / size)
        with self.times.measure("mask"):
            mask = make_mask(self.settings.mask, template, picture.shape[0], rendered.mask)
        if self.settings.colours if self.settings.colours is not None else self.preset.swaps:
            with self.times.measure("colour"):
                picture = self._match(picture, task.crops[template, size], mask)
        with self.times.measure("paste"):
            return warp_patch(picture, mask, matrix, height, width, deep=deep)

    def describe_detector(self) -> str:
        """Changes when other faces might be found: the digest of the detector's file."""
        return self.detector.digest

    def _fit(self, face: Face, key: CropKey) -> NDArray[np.float64]:
        template, size = key
        return fit_similarity(face.landmarks, TEMPLATES[template] * size)

    def _match(self, picture: NDArray[np.float32], target: Image, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        import cv2

        side = picture.shape[0]
        if target.shape[0] != side:
            target = cv2.resize(target, (side, side), interpolation=cv2.INTER_AREA)
        return match_colours(picture, target, mask)

    def _read_person(self, person: Picture) -> NDArray[np.float32]:
        photo = Path(person) if isinstance(person, str) else person
        return read_identity([photo], self.detector, self.embedder, []).embedding

    def _read_target(self, target: Picture | Photo) -> tuple[Photo, str]:
        if isinstance(target, Photo):
            return target, "the photo"
        if isinstance(target, str | Path):
            return read_photo(Path(target)), Path(target).name
        if target.ndim != 3 or target.shape[2] != 3 or target.dtype != np.uint8:
            raise BadInputError(
                f"the target is {target.dtype} {list(target.shape)}, not uint8 [H,W,3]", "hand in RGB of 8 bits"
            )
        return Photo(target), "the photo"


def _list_pictures(source: Picture | Sequence[Picture] | None) -> list[Picture]:
    if source is None:
        return []
    return [source] if isinstance(source, str | Path | np.ndarray) else list(source)


def _scale(matrix: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """``matrix`` [2,3] to a crop that is ``factor`` times as large; pixel middles stay middles."""
    if factor == 1:
        return matrix
    scaled = matrix * factor
    scaled[:, 2] += (factor - 1) / 2
    return scaled


def _explain_selection(selection: FaceSelection) -> str:
    if selection.people is not None:
        return "name another --reference, raise --distance, or leave both out"
    return "take a photo that shows the face larger or clearer"
