"""The words that a photo is counted under: pose, tilt, light, skin tone, covers, size, sharpness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trt_facefusion.faces.curation.measure import SurveyedPhoto
from trt_facefusion.faces.curation.tone import CLASSES, UNDEREXPOSED_GAIN

TURNED_DEGREES, PROFILE_DEGREES, TILTED_DEGREES = 15.0, 45.0, 10.0
LOW_LIGHTNESS, UNDEREXPOSED_LIGHTNESS = 25.0, 45.0
"""Low light: a face below L* 25; or below L* 45 in a photo whose white lacks a stop, so that skin is not the reason."""
BRIGHT_LIGHTNESS, BRIGHT_CLIPPED = 76.0, 0.15
SIDE_LIGHTNESS = 15.0
SMALL_PX, LARGE_PX = 112.0, 200.0
SOFT_SHARPNESS = 0.45
"""2.3 % of 749 portraits are softer, and most faces that were enlarged fourfold; coarse JPEG is not noticed."""

DARK_SKIN = frozenset({"dark", "brown"})


@dataclass(frozen=True)
class Axis:
    """One way of sorting photos: its title and, bin by bin, a key and the words for it."""

    title: str
    bins: Mapping[str, str]


AXES: Mapping[str, Axis] = {
    "pose": Axis(
        "head turned",
        {
            "frontal": "frontal faces (within 15°)",
            "left": "faces turned left in the picture (15 to 45°)",
            "right": "faces turned right in the picture (15 to 45°)",
            "profile": "profile faces (beyond 45°)",
        },
    ),
    "tilt": Axis(
        "head tilted",
        {"level": "level faces (within 10°)", "up": "faces looking up", "down": "faces looking down"},
    ),
    "light": Axis(
        "light",
        {
            "even": "evenly lit faces",
            "side": "faces lit from one side",
            "low": "faces in low light",
            "bright": "faces in harsh bright light",
        },
    ),
    "tone": Axis(
        "skin tone (ITA)",
        {name: f"{name} skin" for name in reversed(CLASSES)} | {"unknown": "skin of unknown tone"},
    ),
    "tone x light": Axis(
        "skin tone in low light",
        {
            "dark, low": "dark skin in low light",
            "light, low": "light skin in low light",
            "other": "other light, or tone unknown",
        },
    ),
    "cover": Axis(
        "covered",
        {
            "clear": "clear faces",
            "eyes": "faces with covered eyes (sunglasses, hair, hats)",
            "mouth": "faces with a covered mouth (masks, scarves)",
        },
    ),
    "size": Axis(
        "size", {"small": "faces below 112 px", "medium": "faces of 112 to 200 px", "large": "faces from 200 px"}
    ),
    "focus": Axis("sharpness", {"sharp": "sharp faces", "soft": "soft or blurred faces"}),
}


def assign_bins(photo: SurveyedPhoto) -> dict[str, str]:
    """The bin of ``photo`` on every axis; an axis that it says nothing about is left out."""
    light = _bin_light(photo)
    bins = _bin_pose(photo) | {"light": light, "tone": photo.tone.name}
    dark = photo.tone.name in DARK_SKIN
    has_tone = photo.tone.name != "unknown"
    bins["tone x light"] = f"{'dark' if dark else 'light'}, low" if has_tone and light == "low" else "other"
    bins["cover"] = photo.covered[0] if photo.covered else "clear"
    bins["size"] = "small" if photo.face_px < SMALL_PX else "large" if photo.face_px >= LARGE_PX else "medium"
    bins["focus"] = "soft" if photo.sharpness < SOFT_SHARPNESS else "sharp"
    return bins


def _bin_pose(photo: SurveyedPhoto) -> dict[str, str]:
    if photo.pose is None:
        return {}
    yaw, pitch = photo.pose.yaw, photo.pose.pitch
    turned = "right" if yaw > 0 else "left"
    pose = "profile" if abs(yaw) > PROFILE_DEGREES else turned if abs(yaw) > TURNED_DEGREES else "frontal"
    return {"pose": pose, "tilt": "level" if abs(pitch) <= TILTED_DEGREES else "up" if pitch > 0 else "down"}


def _bin_light(photo: SurveyedPhoto) -> str:
    e = photo.exposure
    underexposed = photo.tone.gain >= UNDEREXPOSED_GAIN and e.lightness < UNDEREXPOSED_LIGHTNESS
    if e.lightness < LOW_LIGHTNESS or underexposed:
        return "low"
    if e.lightness > BRIGHT_LIGHTNESS or e.clipped_bright > BRIGHT_CLIPPED:
        return "bright"
    return "side" if abs(e.side) > SIDE_LIGHTNESS else "even"
