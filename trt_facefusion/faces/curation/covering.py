"""A hint that something covers the eyes or the mouth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trt_facefusion.faces.curation.chip import (
    BRIDGE,
    EYE_PATCHES,
    EYES,
    MOUTH,
    SIZE,
    Region,
    compute_luma,
    convert_to_lab,
    gather_pixels,
)
from trt_facefusion.types import Image

MEAN_FACE = Path(__file__).resolve().parents[2] / "data" / "mean_face.png"
"""Mean of the sample faces and their mirror images, each with mean 0 and deviation 1; blurred, grey, 128 px."""

_BLUR_PX = 1.5


# The outermost 0.9, 0.3, 0.5 and 0.4 % of 749 portraits.
EYES_LIKENESS = 0.22
EYES_CONTRAST = 0.12
MOUTH_CHROMA = 23.0
MOUTH_COLOUR = 0.15
_COLOURED = 4.0  # chroma below which a photo counts as grey


@dataclass(frozen=True)
class CoverMeasures:
    """What the hint is made of.

    ``eyes_likeness``: correlation of the eyes' band with the mean face, or its mirror image, -1 to 1.
    ``eyes_contrast``: deviation of L* where the eyes must be, over the L* of the nose's bridge.
    ``mouth_chroma``: CIELAB distance in (a*, b*) of the skin around the mouth from the bridge of the nose.
    ``mouth_colour``: chroma around the mouth over that of the bridge; 1 in grey photos.
    """

    eyes_likeness: float
    eyes_contrast: float
    mouth_chroma: float
    mouth_colour: float


def measure_cover(chip: Image) -> CoverMeasures:
    """Measure the regions of ``chip``."""
    blurred = cv2.GaussianBlur(compute_luma(chip), (0, 0), _BLUR_PX)
    colours = convert_to_lab(chip / np.float32(255))
    bridge = np.median(gather_pixels(colours, BRIDGE), axis=0)
    mouth = np.median(gather_pixels(colours, *MOUTH), axis=0)
    eyes = gather_pixels(colours, *EYE_PATCHES)
    bridge_chroma, mouth_chroma = (float(np.hypot(colour[1], colour[2])) for colour in (bridge, mouth))
    return CoverMeasures(
        eyes_likeness=max(_correlate_region(blurred, EYES), _correlate_region(blurred[:, ::-1], EYES)),
        eyes_contrast=float(eyes[:, 0].std() / max(float(bridge[0]), 10.0)),
        mouth_chroma=float(np.hypot(*(mouth - bridge)[1:])),
        mouth_colour=mouth_chroma / bridge_chroma if bridge_chroma > _COLOURED else 1.0,
    )


def detect_covers(chip: Image) -> tuple[str, ...]:
    """Which of "eyes" and "mouth" seem to be covered (sunglasses, bars, hats; masks, scarves): a hint, not a finding.

    Meant for faces turned by less than 40 degrees. Hair over the eyes, hard shadows and grey beards pass for covers at
    times; a mask in the colour of the skin, a hand and clear glasses are not noticed.
    """
    found = measure_cover(chip)
    eyes = found.eyes_likeness < EYES_LIKENESS or found.eyes_contrast < EYES_CONTRAST
    mouth = found.mouth_chroma > MOUTH_CHROMA or found.mouth_colour < MOUTH_COLOUR
    return ("eyes",) * eyes + ("mouth",) * mouth


@cache
def _load_mean_face() -> NDArray[np.float32]:
    face = cv2.imread(str(MEAN_FACE), cv2.IMREAD_GRAYSCALE)
    if face is None or face.shape != (SIZE, SIZE):
        raise RuntimeError(f"{MEAN_FACE} is damaged: install trt-facefusion again")
    return np.asarray(face, np.float32)


def _correlate_region(face: NDArray[np.float32], region: Region) -> float:
    """Pearson correlation of a region with that of the mean face."""
    ours, mean = (values - values.mean() for values in (face[region], _load_mean_face()[region]))
    return float((ours * mean).sum() / max(float(np.linalg.norm(ours) * np.linalg.norm(mean)), 1e-6))
