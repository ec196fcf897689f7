"""Where a crop lies, and what of the photo it touches: held against skimage, and against doing nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.transform import SimilarityTransform

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.align import TEMPLATES, fit_similarity, warp
from trt_facefusion.swap.colour import match_colours
from trt_facefusion.swap.masks import BOX, ELLIPSE, MODEL, MaskSettings, find_support, make_mask
from trt_facefusion.swap.paste import warp_patch
from trt_facefusion.swap.swapper import Swapper, SwapSettings

PLAIN = SwapSettings(colours=False)


def place(template: str, size: float, angle: float, x: float, y: float) -> NDArray[np.float32]:
    """The template's points, turned and scaled to a face of ``size`` pixels around x, y."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return ((TEMPLATES[template] - 0.5) * size @ turn + (x, y)).astype(np.float32)


@given(st.sampled_from(sorted(TEMPLATES)), st.floats(20, 900), st.floats(-3, 3), st.integers(0, 99))
def test_alignment_is_that_of_skimage(template: str, size: float, angle: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = place(template, size, angle, 300, 200) + rng.normal(0, size / 40, (5, 2)).astype(np.float32)
    goal = TEMPLATES[template] * 256
    theirs = SimilarityTransform.from_estimate(points, goal)
    ours = fit_similarity(points, goal)
    assert np.abs(points @ ours[:, :2].T + ours[:, 2] - theirs(points)).max() < 1e-3


@given(st.floats(30, 700), st.floats(-3, 3), st.floats(-40, 700), st.floats(-40, 500), st.integers(0, 9))
def test_a_crop_of_a_part_of_the_photo_is_that_of_the_whole(
    size: float, angle: float, x: float, y: float, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    matrix = fit_similarity(place("arcface_128", size, angle, x, y), TEMPLATES["arcface_128"] * 64)
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    whole = image if scale >= 0.8 else cv2.GaussianBlur(image, (0, 0), 0.5 * (1 / scale - 1) + 0.1)
    whole = cv2.warpAffine(whole, matrix, (64, 64), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    difference = np.abs(warp(image, matrix, 64).astype(int) - whole)
    if scale > 1 / 5:
        assert difference.max() <= 1 and (difference > 0).mean() < 0.02
        return
    # Blocks are averaged first; pure noise is the worst that there is for that. Beyond the photo, its outermost block
    # goes on instead of its outermost pixel.
    places = np.stack([*np.meshgrid(np.arange(64), np.arange(64)), np.ones((64, 64))], -1)
    places = places @ cv2.invertAffineTransform(matrix).T
    inside = ((places > 8) & (places < (631, 471))).all(-1)
    assert difference[inside].max(initial=0) <= 20 and difference[inside].sum() <= 3 * difference[inside].size + 1
    assert difference.max() <= 45


@pytest.mark.parametrize("kind", [BOX, ELLIPSE, MODEL])
@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_masks_are_whole_in_the_middle_and_nothing_at_the_border(kind: str, template: str) -> None:
    mask = make_mask(MaskSettings(kind), template, 128)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert border.max() == 0 and mask.min() >= 0
    nose = (TEMPLATES[template][2] * 128).astype(int)
    assert mask[nose[1], nose[0]] == 1
    assert np.abs(np.diff(mask, axis=0)).max() < 0.12  # no step that could be seen


def test_padding_stays_out_and_the_networks_mask_counts_within_the_box() -> None:
    left, top, right, bottom = find_support(make_mask(MaskSettings(BOX, padding=(0.25, 0.1, 0, 0)), "ffhq_512", 100))
    assert top >= 25 and right <= 90 and left <= 2 and bottom >= 98
    own = np.zeros((50, 50), np.float32)
    own[10:30, 10:30] = 1
    assert find_support(make_mask(MaskSettings(MODEL), "ffhq_512", 100, own)) <= (22, 22, 62, 62)
    assert (make_mask(MaskSettings(BOX), "ffhq_512", 100, own) == make_mask(MaskSettings(BOX), "ffhq_512", 100)).all()
    assert find_support(np.zeros((4, 4), np.float32)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "wrong", [{"kind": "circle"}, {"blur": 2}, {"padding": (0.6, 0, 0.6, 0)}, {"padding": (-1, 0, 0, 0)}]
)
def test_masks_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInputError):
        MaskSettings(**wrong)


def test_putting_the_crop_back_changes_nothing(
    scene: NDArray[np.uint8], unchanging: Path, make_swapper: Callable[..., Swapper]
) -> None:
    """A crop in the photo's own resolution, of what it can hold, comes back to within rounding."""
    smooth = cv2.GaussianBlur(scene, (0, 0), 6)
    swapper = make_swapper(unchanging, settings=PLAIN)
    faces = swapper.detector.detect(scene)
    matrix = fit_similarity(faces[0].landmarks, TEMPLATES["arcface_128"] * 256)
    patch = warp_patch(
        warp(smooth, matrix, 256).astype(np.float32) / 255,
        make_mask(MaskSettings(BOX), "arcface_128", 256),
        matrix,
        *smooth.shape[:2],
        deep=False,
    )
    assert patch is not None
    under = smooth[patch.region.rows, patch.region.columns].astype(int)
    inside = patch.weights > 0.01
    assert np.abs(patch.colours.astype(int) - under)[inside].max() <= 2
    assert np.abs(patch.colours.astype(int) - under)[inside].mean() < 0.5


def test_pixels_beyond_the_crop_are_never_touched(
    scene: NDArray[np.uint8], inverting: Path, make_swapper: Callable[..., Swapper]
) -> None:
    swapped = make_swapper(inverting, settings=PLAIN).swap(None, scene, "all")
    assert swapped.faces == 2
    touched = np.zeros(scene.shape[:2], bool)
    for patch in swapped.patches:
        touched[patch.region.rows, patch.region.columns] |= patch.weights > 0
    assert np.array_equal(swapped.pixels[~touched], scene[~touched])
    changed = (swapped.pixels != scene).any(axis=2)
    assert 0.6 < changed.sum() / touched.sum() <= 1 and touched.mean() < 0.5


@given(st.floats(-200, 840), st.floats(-200, 560), st.floats(20, 900), st.floats(-3, 3))
def test_a_patch_lies_within_the_photo_wherever_the_face_is(x: float, y: float, size: float, angle: float) -> None:
    matrix = fit_similarity(place("arcface_128", size, angle, x, y), TEMPLATES["arcface_128"] * 32)
    mask = make_mask(MaskSettings(), "arcface_128", 32)
    patch = warp_patch(np.zeros((32, 32, 3), np.float32), mask, matrix, 360, 640, deep=False)
    if patch is None:
        return
    region = patch.region
    assert 0 <= region.left < region.right <= 640 and 0 <= region.top < region.bottom <= 360
    assert patch.weights.shape == patch.colours.shape[:2] == (region.bottom - region.top, region.right - region.left)
    edges = [patch.weights[0] if region.top else [0], patch.weights[:, 0] if region.left else [0]]
    assert max(float(np.max(edge)) for edge in edges) == 0  # nothing of the mask was cut off


def test_colours_take_mean_and_spread_of_the_target(face: NDArray[np.uint8], other_face: NDArray[np.uint8]) -> None:
    weights = make_mask(MaskSettings(BOX), "arcface_128", 256)
    picture = cv2.convertScaleAbs(face, alpha=0.8, beta=20).astype(np.float32) / 255
    matched = match_colours(picture, other_face, weights)
    lab = [cv2.cvtColor(x, cv2.COLOR_RGB2LAB) for x in (matched, other_face.astype(np.float32) / 255, picture)]
    means = [np.average(x.reshape(-1, 3), axis=0, weights=weights.ravel()) for x in lab]
    assert np.abs(means[0] - means[1]).max() < 1 < np.abs(means[2] - means[1]).max()
    assert np.abs(match_colours(picture, cv2.convertScaleAbs(face, alpha=0.8, beta=20), weights) - picture).max() < 0.01
