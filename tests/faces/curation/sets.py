"""Folders of photos with something wrong, made from the project's own faces."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from trt_facefusion.faces.curation.survey import Survey
from trt_facefusion.types import Image

Surveyor = Callable[[Path], Survey]


def photos(folder: Path, count: int) -> list[Path]:
    return sorted(folder.glob("*.jpg"))[:count]


def load(path: Path) -> Image:
    return np.array(PIL.Image.open(path).convert("RGB"))


def save(image: Image, path: Path, quality: int = 92) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path, quality=quality)


def copies(of: Sequence[Path], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for path in of:
        shutil.copy(path, folder / path.name)
    return folder


def near_identical(of: Path, folder: Path, count: int, seed: int = 0) -> Path:
    """One photo, brighter or darker by up to a tenth and saved with other qualities."""
    rng, image = np.random.default_rng(seed), load(of).astype(np.float32)
    for index in range(count):
        brighter = np.clip(image * rng.uniform(0.9, 1.1) + rng.normal(0, 1, image.shape), 0, 255)
        save(brighter.astype(np.uint8), folder / f"copy_{index:03}.jpg", int(rng.integers(60, 95)))
    return folder


def one_person(of: Path, folder: Path, count: int, seed: int = 0) -> Path:
    """One face, turned, cut and lit so differently that no two photos pass for copies."""
    rng, image = np.random.default_rng(seed), load(of)
    side = image.shape[0]
    for index in range(count):
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.uniform(-35, 35)), float(rng.uniform(0.6, 1.0)))
        background = tuple(int(level) for level in rng.integers(0, 255, 3))
        turned = cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=background)
        ramp = np.linspace(*rng.uniform(0.45, 1.1, 2), side)[None, :, None]
        save(np.clip(turned * ramp, 0, 255).astype(np.uint8), folder / f"person_{index:03}.jpg")
    return folder


def darkened(of: Iterable[Path], folder: Path, light: float = 0.06) -> Path:
    """Photos with a part of their light (linear)."""
    for path in of:
        scaled = 255 * light ** (1 / 2.2) * (load(path) / 255)
        save(scaled.astype(np.uint8), folder / path.name)
    return folder


def textures(folder: Path, count: int, seed: int = 0) -> Path:
    """Pictures without a face: smoothed noise and stripes."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        noise = rng.uniform(0, 255, (200, 200, 3)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), float(rng.uniform(0.5, 6)))
        stripes = 60 * np.sin(np.arange(200) / rng.uniform(2, 20))[None, :, None]
        stretched = (smooth - smooth.mean()) / smooth.std() * 50 + 128 + stripes
        save(np.clip(stretched, 0, 255).astype(np.uint8), folder / f"texture_{index:03}.jpg")
    return folder
