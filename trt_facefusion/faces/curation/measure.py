"""What is measured on one photo, while its pixels are in memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.crops import Crops
from trt_facefusion.faces.curation import chip as chips
from trt_facefusion.faces.curation.covering import detect_covers
from trt_facefusion.faces.curation.light import Exposure, measure_exposure, measure_sharpness
from trt_facefusion.faces.curation.pose import Pose, estimate_pose
from trt_facefusion.faces.curation.tone import Tone, measure_tone
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.duplicates import VIEWS, make_thumbnail
from trt_facefusion.faces.reader import InspectedFace

COVERING_YAW = 40.0
"""Degrees: a face that is turned farther hides an eye by itself, so no hint of a cover is given."""


@dataclass(frozen=True)
class SurveyedPhoto:
    """One photo and what was measured on its face.

    ``face_px`` is the shorter side of the face's box, for aligned crops that of the picture. ``pose`` is None where the
    detector finds no landmarks in an aligned crop.
    """

    file: str
    digest: str
    face_px: float
    faces_found: int
    sharpness: float
    exposure: Exposure
    tone: Tone
    pose: Pose | None
    covered: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        exposure, pose = asdict(self.exposure), asdict(self.pose) if self.pose else None
        return {
            "file": self.file,
            "face_px": round(self.face_px),
            "faces_found": self.faces_found,
            "sharpness": self.sharpness,
            "exposure": exposure,
            "pose_degrees": pose,
            "ita_degrees": self.tone.ita,
            "tone": self.tone.name,
            "covered": list(self.covered),
        }


@dataclass
class FaceMeasurer:
    """Measures each face while its photo is in memory."""

    detector: FaceDetector
    template: str
    measured: list[dict[str, Any]] = field(default_factory=list)
    chips: Crops = field(default_factory=lambda: Crops([], chips.TEMPLATE, chips.SIZE))
    thumbnails: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def measure(self, inspected: InspectedFace) -> None:
        """Add the figures, the chip and the thumbnails of one more face."""
        face = inspected.face
        if face is None:  # an aligned crop: its landmarks are known well enough to cut, not to tell the pose
            faces = self.detector.detect(inspected.image)
            face = faces[0] if faces else None
        landmarks = None if face is None else face.landmarks
        chip = chips.cut_chip(inspected.image, landmarks)
        pose = None if landmarks is None else estimate_pose(inspected.image, landmarks, self.detector)
        turned = pose is not None and abs(pose.yaw) > COVERING_YAW
        self.measured.append(
            {
                "file": inspected.file,
                "face_px": float(min(inspected.image.shape[:2]) if inspected.face is None else inspected.face.side_px),
                "faces_found": inspected.faces_found,
                "sharpness": measure_sharpness(chip),
                "exposure": measure_exposure(chip),
                "tone": measure_tone(chip, inspected.image),
                "pose": pose,
                "covered": () if turned else detect_covers(chip),
            }
        )
        self.chips.add(replace(inspected.origin, landmarks=chips.locate_landmarks(inspected.image, landmarks)), chip)
        # The measures of copies were made for crops: the chip serves as one, whatever the generator's template.
        self.thumbnails.append((make_thumbnail(inspected.image, VIEWS[0][0]), make_thumbnail(chip, VIEWS[1][0])))
