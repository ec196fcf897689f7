"""Make trt_facefusion/data/mean_face.png, which tells covered eyes, from the sample faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from trt_facefusion.faces.curation.chip import compute_luma, cut_chip
from trt_facefusion.faces.curation.covering import MEAN_FACE
from trt_facefusion.faces.decode import read_image
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.find import list_photos

SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "faces"
SPREAD = 40  # grey levels of one standard deviation


def main() -> None:
    detector = FaceDetector()
    faces = []
    for path in list_photos(SAMPLES):
        image = read_image(path)
        face = cv2.GaussianBlur(compute_luma(cut_chip(image, detector.detect(image)[0].landmarks)), (0, 0), 1.5)
        normal = (face - face.mean()) / face.std()
        faces += [normal, normal[:, ::-1]]
    mean = np.mean(faces, axis=0)
    cv2.imwrite(str(MEAN_FACE), np.clip(mean * SPREAD + 128, 0, 255).round().astype(np.uint8))


if __name__ == "__main__":
    main()
