"""Bytes of photos -> the generator's inputs; its outputs -> bytes of a photo. The very steps of `swap.steps`.

The largest face of the target is swapped: an ensemble passes on one tensor of each kind, and a face for each request is
what the generator's batches are merged of. For all faces of a photo use `trt-ff serve` or `trt-ff swap`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.errors import GateError, StoreError
from trt_facefusion.faces.decode import decode_image
from trt_facefusion.inference.renderer import find_picture
from trt_facefusion.model.presets import ImageOutput, Preset
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.swap.engines import Rendered, find_fault
from trt_facefusion.swap.feeds import FaceFeeds
from trt_facefusion.swap.photo import decode_photo
from trt_facefusion.swap.photo_file import BMP, JPEG, PNG, TIFF, WEBP, encode_photo
from trt_facefusion.swap.provenance import Provenance
from trt_facefusion.swap.steps import FaceTask, SwapSteps
from trt_facefusion.types import Array, Image, TensorSpec

SOURCES, TARGET, PHOTO, MATRIX, CROP = "source_photos", "target_photo", "photo", "face_matrix", "face_crop"
"""Tensors: encoded photos of the person, of the target and of the result; photo -> crop [2,3]; the crop [S,S,3]."""
STEPS_FILE = "steps.json"
NETWORKS = ("embedder", "converter", "detector")
_WRITTEN = frozenset({JPEG, PNG, WEBP, BMP, TIFF})


@dataclass(frozen=True)
class StoredTensor:
    """A `TensorSpec` as a document holds it: -1 for a size that is open."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, spec: TensorSpec) -> StoredTensor:
        """``spec`` as it is stored."""
        return cls(spec.name, tuple(size if isinstance(size, int) else -1 for size in spec.shape), spec.dtype)

    @property
    def spec(self) -> TensorSpec:
        """What was stored; open sizes have names of their own."""
        shape = tuple(f"size_{axis}" if size < 0 else size for axis, size in enumerate(self.shape))
        return TensorSpec(self.name, shape, self.dtype)


@dataclass(frozen=True)
class StepsDocument:
    """What the steps must know of the generator: its border, and whether it computes in ``reduced`` precision.

    ``provenance`` is how results are marked; ``networks`` names files beside the document, by `NETWORKS`.
    """

    takes: tuple[StoredTensor, ...]
    gives: tuple[StoredTensor, ...]
    reduced: bool
    provenance: str
    networks: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> bytes:
        """The document as it is stored."""
        return (json.dumps({"schema": 1, **asdict(self)}, indent=2) + "\n").encode()

    @classmethod
    def load(cls, folder: Path) -> StepsDocument:
        """Read what `as_json` gave. Raises StoreError where it is missing or damaged."""
        try:
            document = parse_json(read_bytes(folder / STEPS_FILE))
            if not isinstance(document, dict) or document.pop("schema", None) != 1:
                raise DocumentError("it has another schema")
            steps = decode(cls, document, STEPS_FILE)
            if any(kind not in NETWORKS or name != f"{kind}.onnx" for kind, name in steps.networks.items()):
                raise DocumentError("it names networks that there are not")
            return steps
        except (OSError, DocumentError) as error:
            raise StoreError(f"{folder / STEPS_FILE} cannot be read: {error}.", "Package the engine again.") from error


def name_pictures(preset: Preset, gives: Sequence[TensorSpec]) -> tuple[str, ...]:
    """The generator's outputs that a photo is made of: the picture, and its masks."""
    output = find_picture(preset, gives)
    return (str(output.name), *output.masks)


class PhotoSteps:
    """The steps before and behind the generator that ``document`` and ``contract`` describe.

    ``networks`` are the files of embedder, converter and detector, where they are not the bundled ones.

    Raises:
        BadInputError: a network is missing that the generator needs, or is another one.
    """

    def __init__(self, document: StepsDocument, contract: Contract, networks: Mapping[str, Path]) -> None:
        self.swap = SwapSteps(
            contract,
            provenance=Provenance(document.provenance),
            embedder=networks.get("embedder"),
            converter=networks.get("converter"),
            detector=networks.get("detector"),
        )
        self.feeds = FaceFeeds(contract, tuple(tensor.spec for tensor in document.takes), self.swap.embedder)
        self.output: ImageOutput = find_picture(contract.preset, [tensor.spec for tensor in document.gives])
        self.reduced = document.reduced

    @classmethod
    def load(cls, folder: Path) -> PhotoSteps:
        """The steps that a version's folder describes. Raises StoreError where it is damaged."""
        document = StepsDocument.load(folder)
        networks = {kind: folder / name for kind, name in document.networks.items()}
        return cls(document, Contract.load(folder), networks)

    @property
    def preset(self) -> Preset:
        """What the generator is."""
        return self.swap.preset

    def prepare(self, sources: Sequence[bytes], target: bytes) -> dict[str, Array]:
        """The generator's inputs for the largest face of ``target``, its `MATRIX` and its `CROP`.

        Raises:
            FacesError: a photo cannot be read, or shows no face.
            BadInputError: the generator needs a source, and there is none.
        """
        people: list[Image] = [decode_image(source, f"source {n}") for n, source in enumerate(sources, 1)]
        prepared = self.swap.prepare(people, decode_photo(target, "the target"))
        (task,) = prepared.tasks
        crop = task.crops[self.preset.crop(self.preset.image)]
        return {**self.feeds(prepared.faces), MATRIX: task.matrix, CROP: crop}

    def finish(self, target: bytes, matrix: NDArray[np.float64], crop: Image, outputs: Mapping[str, Array]) -> bytes:
        """``target`` with the generator's picture in it, in the format that it had (PNG for one that is not written).

        Raises:
            GateError: the picture is broken.
            FacesError: the photo cannot be read.
        """
        picture = self.output.decode(outputs[str(self.output.name)])[0]
        masks = self.output.decode_mask(outputs)
        fault = find_fault(picture, crop, reduced=self.reduced)
        if fault is not None:
            raise GateError(f"the generator gave {fault}; nothing of it is shown", "serve a safer precision")
        photo = decode_photo(target, "the target").copy()
        key = self.preset.crop(self.preset.image)
        task = FaceTask(matrix, key[1], {key: crop}, "the face")
        self.swap.paste(photo, [task], [Rendered(picture, None if masks is None else masks[0])])
        kind = photo.kind if photo.kind in _WRITTEN else PNG
        return encode_photo(photo, str(kind), self.swap.provenance.mark)
