"""Face detection with YuNet (OpenCV Zoo, 2023mar), which gives a box, five landmarks and a score per face."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.align import Landmarks
from trt_facefusion.types import Image

MODEL = Path(__file__).resolve().parents[1] / "data" / "face_detection_yunet_2023mar.onnx"

# YuNet finds faces of about 10 to 300 px. The first size serves group photos, the second close-ups that fill the frame.
LONG_SIDES_PX = (1024, 320)

# On 26 portraits scaled from 48 to 600 px of face, landmarks agreed best and scores peaked at 190 to 260 px; at 400 px
# they are off by 1.6 times as much. Faces met at a scale more than `RESCALE` away from this are looked at again.
BEST_FACE_PX = 208
RESCALE = 1.4

# YuNet also finds faces that lie on their side, but places their landmarks as if they stood, and scores them low: 0.79
# against 0.94 for the upright turn of one portrait. A face tipped back gains 0.02 by a turn, and must not be turned.
SURE_SCORE = 0.85
SCORE_MARGIN = 0.05

# A face of 48 px is 19 px at this scale. Photos that the first look shrinks below it are looked at in tiles where
# nothing was found, each level twice as close as the one before: faces larger than the overlap were found at that one.
CLOSE_SCALE = 0.4
TILE_PX, OVERLAP_PX = 1024, 160
SAME_FACE = 0.3
"""Share of two boxes that overlaps, of both together, from which on they are one face."""
_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face: ``box`` is x, y, width, height and ``landmarks`` is [5,2], both in pixels of the whole image."""

    box: tuple[float, float, float, float]
    landmarks: Landmarks
    score: float

    @property
    def area(self) -> float:
        """Box area in square pixels."""
        return self.box[2] * self.box[3]

    @property
    def side_px(self) -> float:
        """The shorter side of the box in pixels."""
        return min(self.box[2], self.box[3])


class FaceDetector:
    """Finds faces; one object may be shared by threads (OpenCV's detector may not, so calls take turns)."""

    def __init__(self, score_threshold: float = 0.7) -> None:
        self.score_threshold = score_threshold
        self._lock = threading.Lock()

    @cached_property
    def digest(self) -> str:
        """sha256 of the model file and the score threshold: changes when other faces might be found."""
        return hashlib.sha256(MODEL.read_bytes() + f"|{self.score_threshold}".encode()).hexdigest()

    @cached_property
    def _net(self) -> cv2.FaceDetectorYN:
        with _hide_warnings():
            return cv2.FaceDetectorYN.create(str(MODEL), "", (320, 320), self.score_threshold, 0.3, 5000)

    def detect(self, image_rgb: Image) -> list[Face]:
        """Faces in ``image_rgb`` ([H,W,3] uint8 RGB), the largest first; an empty list where none is found.

        A picture without a sure face is also tried turned, for photos that lost their orientation. That rights pictures
        on their side; upside down, YuNet is too sure of itself to tell. A large photo in which nothing is found is
        searched once more from closer by, for small faces that are sure and upright.
        """
        faces = self._detect_upright(image_rgb)
        best = faces[0].score if faces else 0.0
        if best >= SURE_SCORE:
            return faces
        for turns in (1, 2, 3):
            turned = self._detect_upright(cv2.rotate(image_rgb, _TURNS[turns]))
            if turned and turned[0].score > max(best + SCORE_MARGIN, SURE_SCORE):
                height, width = image_rgb.shape[:2]
                faces, best = [_turn_back(face, turns, width, height) for face in turned], turned[0].score
        return faces or self._detect_closely(image_rgb)

    def _detect_upright(self, image_rgb: Image) -> list[Face]:
        long_side = max(image_rgb.shape[:2])
        for limit in LONG_SIDES_PX:
            scale = min(1.0, limit / long_side)
            faces = self._detect_at(image_rgb, scale)
            if faces:
                faces = [self._look_again(image_rgb, face, scale) for face in faces]
                return sorted(faces, key=lambda face: -face.area)
        return []

    def _detect_closely(self, image_rgb: Image) -> list[Face]:
        """Faces too small to be found at the scale of the first look; the coarsest level that has any counts."""
        scale = LONG_SIDES_PX[0] / max(image_rgb.shape[:2])
        while scale < CLOSE_SCALE:
            scale = min(2 * scale, CLOSE_SCALE)
            refined_faces = [
                self._look_again(image_rgb, face, scale) for face in self._detect_in_tiles(image_rgb, scale)
            ]
            sure = _drop_overlapping([face for face in refined_faces if face.score >= SURE_SCORE])
            if sure:
                return sorted(sure, key=lambda face: -face.area)
        return []

    def _detect_in_tiles(self, image_rgb: Image, scale: float) -> list[Face]:
        size = [max(1, round(side * scale)) for side in image_rgb.shape[:2]]
        small = cv2.resize(image_rgb, (size[1], size[0]), interpolation=cv2.INTER_AREA)
        zoom = np.array([image_rgb.shape[1] / size[1], image_rgb.shape[0] / size[0]], np.float32)
        faces = []
        for top in range(0, max(size[0] - OVERLAP_PX, 1), TILE_PX - OVERLAP_PX):
            for left in range(0, max(size[1] - OVERLAP_PX, 1), TILE_PX - OVERLAP_PX):
                tile = np.ascontiguousarray(small[top : top + TILE_PX, left : left + TILE_PX])
                faces += [_move_face(face, left, top, zoom) for face in self._detect_at(tile, 1.0)]
        return _drop_overlapping(faces)

    def _look_again(self, image_rgb: Image, face: Face, scale: float) -> Face:
        """``face``, found at ``scale``, with landmarks from the scale that suits them best, as far as pixels allow."""
        best_scale = min(1.0, BEST_FACE_PX / max(face.side_px, 1.0))
        if 1 / RESCALE < best_scale / scale < RESCALE:
            return face
        x, y, width, height = face.box
        reach = max(width, height)
        left, top = max(0, int(x + width / 2 - reach)), max(0, int(y + height / 2 - reach))
        region = image_rgb[top : max(0, int(y + height / 2 + reach)), left : max(0, int(x + width / 2 + reach))]
        if min(region.shape[:2]) < 2:
            return face
        shift = np.array([left, top], np.float32)
        for again in self._detect_at(np.ascontiguousarray(region), best_scale):
            nose = again.landmarks[2] + shift
            if x < nose[0] < x + width and y < nose[1] < y + height and again.score >= face.score - SCORE_MARGIN:
                box = (again.box[0] + left, again.box[1] + top, again.box[2], again.box[3])
                return Face(box, again.landmarks + shift, again.score)
        return face

    def _detect_at(self, image_rgb: Image, scale: float) -> list[Face]:
        height, width = image_rgb.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = image_rgb if scale == 1.0 else cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA)
        with self._lock:
            self._net.setInputSize(size)
            _, rows = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        zoom = np.array([width / size[0], height / size[1]], np.float32)
        return sorted((_parse_face(row, zoom) for row in rows), key=lambda face: -face.area)


def _parse_face(row: NDArray[np.float32], zoom: NDArray[np.float32]) -> Face:
    x, y, width, height = (float(v) for v in row[:4] * np.tile(zoom, 2))
    return Face((x, y, width, height), (row[4:14].reshape(5, 2) * zoom).astype(np.float32), float(row[14]))


def _move_face(face: Face, left: int, top: int, zoom: NDArray[np.float32]) -> Face:
    """``face`` of a tile at ``left``, ``top`` of a shrunken photo, in pixels of the whole photo."""
    shift = np.array([left, top], np.float32)
    x, y = ((np.array(face.box[:2], np.float32) + shift) * zoom).tolist()
    width, height = (np.array(face.box[2:], np.float32) * zoom).tolist()
    return Face((x, y, width, height), (face.landmarks + shift) * zoom, face.score)


def _drop_overlapping(faces: list[Face]) -> list[Face]:
    """Of boxes that lie on one face, the one with the best score."""
    distinct_faces: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.score, face.box)):
        if all(_measure_overlap(face.box, other.box) < SAME_FACE for other in distinct_faces):
            distinct_faces.append(face)
    return distinct_faces


def _measure_overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / max(one[2] * one[3] + other[2] * other[3] - shared, 1e-6)


def _turn_back(face: Face, turns: int, width: int, height: int) -> Face:
    """``face`` of a picture turned left ``turns`` times by 90 degrees, in pixels of the ``width`` x ``height`` one."""
    x, y, box_width, box_height = face.box
    points = np.vstack([face.landmarks, [[x, y], [x + box_width, y + box_height]]]).astype(np.float32)
    across, down = points[:, 0], points[:, 1]
    back = {1: (width - 1 - down, across), 2: (width - 1 - across, height - 1 - down), 3: (down, height - 1 - across)}
    points = np.stack(back[turns], axis=1)
    corner, size = points[5:].min(0), np.ptp(points[5:], axis=0)
    return Face((float(corner[0]), float(corner[1]), float(size[0]), float(size[1])), points[:5], face.score)


@contextmanager
def _hide_warnings() -> Iterator[None]:
    """OpenCV 5 warns on every creation that its new engine ignores the target (4 does not); errors get through."""
    logging = getattr(cv2.utils, "logging", None)
    if logging is None:
        yield
        return
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        logging.setLogLevel(level)
