"""Head pose from the five landmarks of the detector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.align import TEMPLATES, Landmarks, fit_similarity, warp
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.types import Image

# Millimetres; x to the right of the picture, y down, z away from the camera. Widths and heights are the median of what
# the detector gives on 161 portraits, for eyes 63 mm apart (the adult mean). The depths are rounded anthropometric
# means, such that portraits have a median pitch near 0 (-1).
MODEL_MM = np.array([(-31.5, 0, 0), (31.5, 0, 0), (0, 36.7, -28), (-28, 63, -3), (28, 63, -3)], np.float64)
DISTANCE_MM = 600.0
"""Assumed distance of the camera: no photo tells it, and it hardly matters beyond arm's length."""

_SIZE, _MARGIN = 192, 32


@dataclass(frozen=True)
class Pose:
    """Degrees. ``yaw`` > 0: the face looks to the right of the picture; ``pitch`` > 0: up; ``roll`` > 0: clockwise."""

    yaw: float
    pitch: float
    roll: float


def solve_pose(landmarks: Landmarks) -> Pose | None:
    """The pose of a generic face whose projection fits ``landmarks`` [5,2] best; None if there is none.

    Solves the perspective-n-point problem (G. Terzakis, M. Lourakis, "A consistently fast and globally optimal solution
    to the perspective-n-point problem", ECCV 2020), refined by Levenberg-Marquardt.
    """
    points = landmarks.astype(np.float64)
    centre = points.mean(0)
    size = math.sqrt(((points - centre) ** 2).sum(1).mean())
    if size < 1e-6:
        return None
    model = MODEL_MM - MODEL_MM.mean(0)
    focal = size * DISTANCE_MM / math.sqrt((model**2).sum(1).mean())
    camera = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    _, turns, shifts, _ = cv2.solvePnPGeneric(model, points, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    best, least = None, math.inf
    for first_turn, first_shift in zip(turns, shifts, strict=True):
        turn, shift = cv2.solvePnPRefineLM(model, points, camera, None, first_turn.copy(), first_shift.copy())
        seen = cv2.projectPoints(model, turn, shift, camera, None)[0][:, 0]
        error = float(((seen - points) ** 2).sum())
        if shift[2, 0] > 0 and error < least:
            best, least = _read_angles(cv2.Rodrigues(turn)[0]), error
    return best


def _read_angles(rotation: NDArray[np.float64]) -> Pose:
    """Of R = Ry(yaw) Rx(pitch) Rz(roll): where the face's axis points, then how it is turned about it."""
    yaw = math.atan2(-rotation[0, 2], rotation[2, 2])
    pitch = math.asin(float(np.clip(rotation[1, 2], -1, 1)))
    return Pose(*map(math.degrees, (yaw, pitch, math.atan2(rotation[1, 0], rotation[1, 1]))))


def estimate_pose(image: Image, landmarks: Landmarks, detector: FaceDetector) -> Pose | None:
    """The pose of the face with ``landmarks`` in ``image``.

    The detector looks at the upright face and at its mirror image, and the landmarks are averaged: that takes out what
    differs between the two (5 degrees of yaw in the mean on portraits), and a mirrored photo gives the opposite yaw.
    """
    matrix = fit_similarity(landmarks, TEMPLATES["arcface_128"] * _SIZE)
    matrix[:, 2] += _MARGIN
    upright = warp(image, matrix, _SIZE + 2 * _MARGIN)
    views = [
        _detect_nearest(detector, upright),
        _mirror_landmarks(_detect_nearest(detector, np.ascontiguousarray(upright[:, ::-1]))),
    ]
    found = [points for points in views if points is not None]
    if not found:
        found = [(landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)]
    pose = solve_pose(np.mean(found, axis=0))
    if pose is None:
        return None
    turned = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    roll = (pose.roll - turned + 180) % 360 - 180
    return Pose(round(pose.yaw, 2), round(pose.pitch, 2), round(roll, 2))


def _detect_nearest(detector: FaceDetector, upright: Image) -> Landmarks | None:
    """The landmarks of the face whose eyes are nearest to where they must be."""
    middle = _MARGIN + _SIZE / 2
    faces = [face.landmarks for face in detector.detect(upright)]
    return min(faces, key=lambda points: float(np.abs(points.mean(0) - middle).sum()), default=None)


def _mirror_landmarks(points: Landmarks | None) -> Landmarks | None:
    if points is None:
        return None
    flipped = points[[1, 0, 2, 4, 3]]
    return np.stack([_SIZE + 2 * _MARGIN - 1 - flipped[:, 0], flipped[:, 1]], axis=1)
