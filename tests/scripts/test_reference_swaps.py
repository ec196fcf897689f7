"""The measures of swaps, on pictures of which the answer is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from reference_faces import Faces, read_folder
from reference_swaps import Pictures, judge, measure_energy, measure_inside_psnr_db, train_critic


@pytest.fixture(scope="module")
def photos(sample_faces: Path) -> Pictures:
    crops = Faces.from_arrays(*read_folder(sample_faces, 12)).centre_crops()
    return np.asarray(crops.permute(0, 2, 3, 1).numpy(), np.float32)


def scratch(photos: Pictures) -> Pictures:
    scratched = photos.copy()
    for picture in scratched:
        cv2.polylines(picture, [np.array([[40, 60], [44, 80], [42, 100], [60, 108]], np.int32)], False, (0.2, 0.1, 0.1))
    return scratched


@pytest.mark.parametrize("cut_off", [0.125, 0.25])
def test_scratches_add_energy_and_blur_takes_it(photos: Pictures, cut_off: float) -> None:
    blurred = np.stack([cv2.GaussianBlur(picture, (0, 0), 1.5) for picture in photos])
    assert (measure_energy(scratch(photos), cut_off) > 1.5 * measure_energy(photos, cut_off)).all()
    assert (measure_energy(blurred, cut_off) < 0.5 * measure_energy(photos, cut_off)).all()


def test_what_happens_outside_of_the_face_counts_for_nothing(photos: Pictures) -> None:
    changed = photos.copy()
    changed[:, :, :8] = 0.5
    np.testing.assert_allclose(measure_energy(changed, 0.25), measure_energy(photos, 0.25), rtol=0.1)
    assert measure_inside_psnr_db(photos, changed).min() > 45  # the edge is soft


def test_a_critic_tells_scratched_faces_and_cannot_tell_the_same_ones(photos: Pictures) -> None:
    scratched = scratch(photos)
    critic = train_critic(photos[:8], scratched[:8], steps=60)
    assert judge(critic, photos[8:], scratched[8:])["critic prefers the photo"] == 1
    assert judge(critic, photos[8:], photos[8:])["critic prefers the photo"] == 0.5
