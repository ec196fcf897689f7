"""Detectors that users bring as ONNX files: SCRFD (InsightFace's det_10g and its family) and RetinaFace.

Which of the two a file is, its outputs tell: SCRFD has three for each of three strides, RetinaFace three in all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.session import join_lines
from trt_facefusion.errors import ModelError
from trt_facefusion.faces.detector import Face, FaceDetector
from trt_facefusion.faces.embedder import open_embedder_session
from trt_facefusion.storage.files import digest_regular, require_regular_file
from trt_facefusion.types import Image

SIDE = 640
"""Side in pixels of the square that a photo is fitted into, unless the file has a size of its own."""
_STRIDES = (8, 16, 32)
_SCORE, _NMS = 0.5, 0.4
_OVERLAPPING = 5000
_SCRFD_MEAN, _SCRFD_STD = 127.5, 128.0
_RETINA_MEAN_BGR = np.array([104, 117, 123], np.float32)
_RETINA_SIDES = ((16, 32), (64, 128), (256, 512))
_RETINA_VARIANCES = (0.1, 0.2)

Floats = NDArray[np.float32]


class Detector(Protocol):
    """Finds faces."""

    @property
    def digest(self) -> str:
        """Changes when other faces might be found."""

    def detect(self, image_rgb: Image) -> list[Face]:
        """Faces in ``image_rgb`` ([H,W,3] uint8 RGB), the largest first; an empty list where none is found."""


def open_detector(model: Path | None) -> Detector:
    """The detector in the ONNX file ``model``; YuNet, which is bundled, without one.

    Raises:
        ModelError: the file cannot be opened, or its inputs and outputs are those of neither kind.
    """
    return FaceDetector() if model is None else OnnxDetector(model)


@dataclass(frozen=True)
class _Candidates:
    """What a network says: ``boxes`` [N,4] (left, top, right, bottom), ``points`` [N,10], ``scores`` [N]."""

    boxes: Floats
    points: Floats
    scores: Floats


class OnnxDetector:
    """An SCRFD or RetinaFace network that gives five landmarks.

    Raises:
        ModelError: as `open_detector`.
    """

    def __init__(self, path: Path, score_threshold: float = _SCORE) -> None:
        require_regular_file(path, "detector", ModelError)
        self.path, self.score_threshold = path, score_threshold
        self._session: Any = open_embedder_session(path)
        (self._input, self.side) = self._read_input()
        outputs = self._session.get_outputs()
        self._is_scrfd = len(outputs) == 3 * len(_STRIDES)
        if not self._is_scrfd and len(outputs) != 3:
            raise self._refuse(f"it has {len(outputs)} outputs, not 9 (SCRFD) or 3 (RetinaFace), all with landmarks")
        self._parse(np.zeros((self.side, self.side, 3), np.uint8))

    @cached_property
    def digest(self) -> str:
        """sha256 of the model file and the score threshold."""
        content = digest_regular(self.path, "detector", ModelError)
        return hashlib.sha256(content + f"|{self.score_threshold}".encode()).hexdigest()

    def detect(self, image_rgb: Image) -> list[Face]:
        """Faces in ``image_rgb`` ([H,W,3] uint8 RGB), the largest first; an empty list where none is found."""
        height, width = image_rgb.shape[:2]
        scale = self.side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        canvas = np.zeros((self.side, self.side, 3), np.uint8)
        canvas[: size[1], : size[0]] = cv2.resize(image_rgb, size, interpolation=how)
        candidates = self._parse(canvas)
        zoom = np.array([width / size[0], height / size[1]], np.float32)
        faces = [_make_face(candidates, number, zoom) for number in _suppress(candidates, self.score_threshold)]
        return sorted(faces, key=lambda face: -face.area)

    def _parse(self, canvas: Image) -> _Candidates:
        """What the network says of ``canvas`` [side,side,3]."""
        tensor = _encode_scrfd(canvas) if self._is_scrfd else _encode_retina(canvas)
        try:
            outputs = [np.asarray(output, np.float32) for output in self._session.run(None, {self._input: tensor})]
            return _decode_scrfd(outputs, self.side) if self._is_scrfd else _decode_retina(outputs, self.side)
        except Exception as error:  # onnxruntime has no common base; ValueError where the shapes do not fit
            raise self._refuse(join_lines(error)[:300]) from error

    def _read_input(self) -> tuple[str, int]:
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        if len(shape) != 4 or inputs[0].type != "tensor(float)" or shape[1] not in {3, "3"} | _names(shape[1]):
            raise self._refuse("its input is not one float tensor [1,3,H,W]")
        sides = {side for side in shape[2:] if isinstance(side, int) and side > 0}
        if len(sides) > 1 or any(side % _STRIDES[-1] for side in sides):
            raise self._refuse(f"its input is {shape[2]}x{shape[3]}, not a square of a multiple of 32")
        return inputs[0].name, sides.pop() if sides else SIDE

    def _refuse(self, why: str) -> ModelError:
        return ModelError(
            f"{self.path.name} is no SCRFD or RetinaFace detector: {why}",
            "name such an ONNX with --detector (InsightFace's det_10g.onnx for example), or leave it out for YuNet",
        )


def _names(size: Any) -> set[Any]:
    return {size} if not isinstance(size, int) else set()


def _encode_scrfd(canvas: Image) -> Floats:
    tensor = (canvas.astype(np.float32) - _SCRFD_MEAN) / _SCRFD_STD
    return np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])


def _encode_retina(canvas: Image) -> Floats:
    tensor = canvas[..., ::-1].astype(np.float32) - _RETINA_MEAN_BGR
    return np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])


def _decode_scrfd(outputs: list[Floats], side: int) -> _Candidates:
    """Outputs by their last axis: scores (1), distances to the sides (4) and landmarks (10) in strides, per anchor.

    Source: J. Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", 2021, as InsightFace
    exports it. Raises ValueError where the shapes are others.
    """
    by_values: Mapping[int, list[Floats]] = {
        count: sorted((o.reshape(-1, count) for o in outputs if o.shape[-1] == count), key=lambda o: -len(o))
        for count in (1, 4, 10)
    }
    if any(len(tensors) != len(_STRIDES) for tensors in by_values.values()):
        raise ValueError("its outputs are not scores, boxes and landmarks of three strides")
    parts = []
    for level, stride in enumerate(_STRIDES):
        scores, distances, points = (by_values[count][level] for count in (1, 4, 10))
        anchors = len(scores) // (side // stride) ** 2
        centres = np.repeat(_list_centres(side, stride) - stride / 2, anchors, axis=0)
        if not anchors or not len(centres) == len(scores) == len(distances) == len(points):
            raise ValueError(f"{len(scores)} scores at stride {stride} do not cover {side}x{side} pixels")
        boxes = np.hstack([centres - distances[:, :2] * stride, centres + distances[:, 2:] * stride])
        parts.append((boxes, np.tile(centres, 5) + points * stride, scores[:, 0]))
    return _Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _decode_retina(outputs: list[Floats], side: int) -> _Candidates:
    """Outputs by their last axis: boxes (4), two classes (2), landmarks (10), each against priors.

    Source: J. Deng et al., "RetinaFace", CVPR 2020, with the priors of its PyTorch version. Raises ValueError where the
    shapes are others.
    """
    by_values = {output.shape[-1]: output.reshape(-1, output.shape[-1]) for output in outputs}
    priors = _list_priors(side)
    if set(by_values) != {2, 4, 10} or any(len(tensor) != len(priors) for tensor in by_values.values()):
        raise ValueError(f"its outputs are not boxes, classes and landmarks of {len(priors)} priors")
    near, far = _RETINA_VARIANCES
    centres, sizes = priors[:, :2], priors[:, 2:]
    middle = centres + by_values[4][:, :2] * near * sizes
    half = sizes * np.exp(np.clip(by_values[4][:, 2:] * far, -10, 10)) / 2
    points = np.tile(centres, 5) + by_values[10] * near * np.tile(sizes, 5)
    return _Candidates(np.hstack([middle - half, middle + half]), points, by_values[2][:, 1])


@cache
def _list_centres(side: int, stride: int) -> Floats:
    """The middles of all cells [N,2], row by row, in pixels."""
    across = (np.arange(side // stride, dtype=np.float32) + 0.5) * stride
    grid = np.meshgrid(across, across)
    return np.stack(grid, axis=-1).reshape(-1, 2).astype(np.float32)


@cache
def _list_priors(side: int) -> Floats:
    """Middle and size [N,4] of RetinaFace's priors in pixels."""
    priors = [
        np.hstack([np.repeat(_list_centres(side, stride), 2, axis=0), np.tile([[a, a], [b, b]], (cells, 1))])
        for stride, (a, b) in zip(_STRIDES, _RETINA_SIDES, strict=True)
        for cells in [(side // stride) ** 2]
    ]
    return np.concatenate(priors).astype(np.float32)


def _suppress(candidates: _Candidates, score_threshold: float) -> list[int]:
    """Of boxes that overlap, the best; none below the threshold."""
    usable = np.isfinite(candidates.boxes).all(1) & np.isfinite(candidates.points).all(1)
    numbers = np.flatnonzero(usable & (candidates.scores > score_threshold))
    numbers = numbers[np.argsort(-candidates.scores[numbers], kind="stable")][:_OVERLAPPING]
    corners = candidates.boxes[numbers]
    rectangles = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    kept = cv2.dnn.NMSBoxes(rectangles.tolist(), candidates.scores[numbers].tolist(), score_threshold, _NMS)
    return [int(numbers[index]) for index in np.asarray(kept, np.int64).reshape(-1)]


def _make_face(candidates: _Candidates, number: int, zoom: Floats) -> Face:
    left, top, right, bottom = (candidates.boxes[number] * np.tile(zoom, 2)).tolist()
    points = (candidates.points[number].reshape(5, 2) * zoom).astype(np.float32)
    return Face((left, top, right - left, bottom - top), points, float(candidates.scores[number]))
