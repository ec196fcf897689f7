"""Align and paste back one face: this project against the two ways that others have published.

- *whole frame*, as InsightFace's INSwapper.get(..., paste_back=True): crop, white square and mask are warped over the
  whole frame, eroded and blurred there, and the whole frame is blended in float32.
- *bounding box*, as FaceFusion's paste_back: the crop and its box mask are warped into the box of the crop's corners,
  and the box is blended in float64.

All are written plainly here, from their published steps, and run in turns on the same frames with the crop itself as
the swap, so that nothing but aligning and pasting is timed: in processor time of the one thread that runs it. The
largest difference is that between a frame and what comes back: the blur of going through the crop and back.

    python benchmarks/pipeline.py [--rounds 30]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import clips  # noqa: E402

from trt_facefusion.faces.align import TEMPLATES, fit_similarity, warp  # noqa: E402
from trt_facefusion.faces.decode import read_image  # noqa: E402
from trt_facefusion.faces.detector import FaceDetector  # noqa: E402
from trt_facefusion.swap.masks import MaskSettings, make_mask  # noqa: E402
from trt_facefusion.swap.paste import blend_rgb8, warp_patch  # noqa: E402

SIZE = 128
FRAMES = {"720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
Way = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.uint8]]


def paste_ours(frame: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
    matrix = fit_similarity(landmarks, TEMPLATES["arcface_128"] * SIZE)
    crop = warp(frame, matrix, SIZE).astype(np.float32) / np.float32(255)
    mask = make_mask(MaskSettings(), "arcface_128", SIZE)
    patch = warp_patch(crop, mask, matrix, *frame.shape[:2], deep=False)
    assert patch is not None
    blend_rgb8(frame, patch)
    return frame


def paste_whole_frame(frame: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
    matrix = fit_similarity(landmarks, TEMPLATES["arcface_128"] * SIZE)
    aligned = cv2.warpAffine(frame, matrix, (SIZE, SIZE), borderValue=0.0)
    swapped = aligned
    difference = np.abs(swapped.astype(np.float32) - aligned.astype(np.float32)).mean(axis=2)
    difference[:2], difference[-2:], difference[:, :2], difference[:, -2:] = 0, 0, 0, 0
    back = cv2.invertAffineTransform(matrix)
    size = (frame.shape[1], frame.shape[0])
    white = np.full((SIZE, SIZE), 255, np.float32)
    swapped = cv2.warpAffine(swapped, back, size, borderValue=0.0)
    white = cv2.warpAffine(white, back, size, borderValue=0.0)
    difference = cv2.warpAffine(difference, back, size, borderValue=0.0)
    white[white > 20] = 255
    difference[difference < 10] = 0
    difference[difference >= 10] = 255
    rows, columns = np.where(white == 255)
    side = int(np.sqrt((rows.max() - rows.min()) * (columns.max() - columns.min())))
    k = max(side // 10, 10)
    white = cv2.erode(white, np.ones((k, k), np.uint8), iterations=1)
    difference = cv2.dilate(difference, np.ones((2, 2), np.uint8), iterations=1)
    k = max(side // 20, 5)
    white = cv2.GaussianBlur(white, (2 * k + 1, 2 * k + 1), 0)
    difference = cv2.GaussianBlur(difference, (11, 11), 0)
    mask = (white / 255)[..., None]
    merged = mask * swapped + (1 - mask) * frame.astype(np.float32)
    return np.asarray(merged.astype(np.uint8))


def paste_bounding_box(frame: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
    goal = TEMPLATES["arcface_128"] * SIZE
    matrix = cv2.estimateAffinePartial2D(landmarks, goal, method=cv2.RANSAC, ransacReprojThreshold=100)[0]
    crop = cv2.warpAffine(frame, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE, flags=cv2.INTER_AREA)
    blur = int(SIZE * 0.5 * 0.3)
    area = max(blur // 2, 1)
    mask = np.ones((SIZE, SIZE), np.float32)
    mask[:area], mask[-area:], mask[:, :area], mask[:, -area:] = 0, 0, 0, 0
    mask = cv2.GaussianBlur(mask, (0, 0), blur * 0.25)
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [SIZE, 0], [SIZE, SIZE], [0, SIZE]], np.float32)
    points = cv2.transform(corners[None], back)[0]
    x1, y1 = np.clip(np.floor(points.min(0)).astype(int), 0, (frame.shape[1], frame.shape[0]))
    x2, y2 = np.clip(np.ceil(points.max(0)).astype(int), 0, (frame.shape[1], frame.shape[0]))
    back[0, 2] -= x1
    back[1, 2] -= y1
    size = (int(x2 - x1), int(y2 - y1))
    warped_mask = np.clip(cv2.warpAffine(mask, back, size), 0, 1)[..., None]
    warped = cv2.warpAffine(crop, back, size, borderMode=cv2.BORDER_REPLICATE)
    merged = frame.copy()
    region = merged[y1:y2, x1:x2]
    merged[y1:y2, x1:x2] = (region * (1 - warped_mask) + warped * warped_mask).astype(frame.dtype)
    return merged


WAYS: dict[str, Way] = {
    "ours": paste_ours,
    "whole frame": paste_whole_frame,
    "bounding box": paste_bounding_box,
}


def measure(frame: NDArray[np.uint8], landmarks: NDArray[np.float32], rounds: int) -> dict[str, float]:
    """The median milliseconds of each way, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 3):
        for name, way in WAYS.items():
            own = frame.copy()
            started = time.thread_time()
            way(own, landmarks)
            if number >= 3:
                times[name].append((time.thread_time() - started) * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def main(rounds: Annotated[int, typer.Option(min=1, help="Frames of each kind.")] = 30) -> None:
    cv2.setNumThreads(1)
    face = read_image(sorted((ROOT / "samples" / "faces").glob("*.jpg"))[33])
    table = Table("frame", "face", *(f"{name} ms" for name in WAYS), "whole / ours", "box / ours", "largest difference")
    for name, (width, height) in FRAMES.items():
        frame = clips.draw_frame(face, 10, width, height)
        found: Any = FaceDetector().detect(frame)[0]
        times = measure(frame, found.landmarks, rounds)
        back = paste_ours(frame.copy(), found.landmarks)
        ratios = [f"{times[other] / times['ours']:.1f}" for other in ("whole frame", "bounding box")]
        difference = np.abs(back.astype(int) - frame)
        table.add_row(
            name,
            f"{found.side_px:.0f} px",
            *(f"{times[way]:.2f}" for way in WAYS),
            *ratios,
            f"{difference.max()} (mean {difference[difference > 0].mean():.1f})",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
