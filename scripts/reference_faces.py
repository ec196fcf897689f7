"""The faces that the reference generator is trained and measured on: aligned once, varied anew in every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from trt_facefusion.faces.align import align_crop
from trt_facefusion.faces.decode import read_image
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.embedder import DlibEmbedder
from trt_facefusion.faces.find import list_photos
from trt_facefusion.model.generators.reference import TARGET_SIZE

MARGIN = 16  # pixels around the crop that augmentation may rotate or shift into view
EYES_AND_MOUTH = ((46.3, 51.6, 9.0, 6.0), (81.5, 51.6, 9.0, 6.0), (64.0, 92.3, 14.0, 7.0))  # centre, radii, in pixels


@dataclass
class Faces:
    """Aligned crops [N,3,160,160] uint8 and unit embeddings [N,2,128] of each photo and of its mirror image."""

    crops: Tensor
    embeddings: Tensor

    @classmethod
    def load(cls, cache: Path, split: str) -> Faces:
        """The faces that `read_folder` read and `numpy.savez` kept under the name ``split``."""
        with np.load(cache) as arrays:
            return cls.from_arrays(arrays[f"{split}_crops"], arrays[f"{split}_embeddings"])

    @classmethod
    def from_arrays(cls, crops: NDArray[np.uint8], embeddings: NDArray[np.float32]) -> Faces:
        """Crops and raw embeddings as `read_folder` gives them."""
        return cls(torch.from_numpy(crops), F.normalize(torch.from_numpy(embeddings), dim=-1))

    def centre_crops(self) -> Tensor:
        """The crops without their margin, [N,3,128,128] in [0,1]."""
        inner = self.crops[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
        return (inner.float() / 255).contiguous(memory_format=torch.channels_last)

    def __len__(self) -> int:
        return len(self.crops)


def read_folder(folder: Path, most: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crops [N,3,160,160] and raw embeddings [N,2,128] of the first ``most`` photos.

    Those in which, or in whose mirror image, no face is detected are told and left out.
    """
    crops, embeddings = [], []
    detector, embedder = FaceDetector(), DlibEmbedder()
    for path in list_photos(folder)[:most]:
        photo = read_image(path)
        pictures = (photo, np.ascontiguousarray(photo[:, ::-1]))
        detected = [detector.detect(picture) for picture in pictures]
        if not all(detected):
            print(f"skipped {path.name}: no face")
            continue
        crops.append(align_crop(photo, detected[0][0].landmarks, "arcface_128", TARGET_SIZE, MARGIN))
        chips = [
            align_crop(picture, faces[0].landmarks, embedder.template, embedder.size)
            for picture, faces in zip(pictures, detected, strict=True)
        ]
        embeddings.append(embedder.embed(np.stack(chips)))
    return np.stack(crops).transpose(0, 3, 1, 2), np.stack(embeddings)


def augment(faces: Faces, index: Tensor) -> tuple[Tensor, Tensor]:
    """Random geometry and light: crops [N,3,128,128] in [0,1] and the embeddings [N,128] that fit them."""
    n = len(index)
    x = faces.crops[index].float() / 255
    mirrored = torch.rand(n) < 0.5
    angle = 0.06 * torch.randn(n)
    scale = (1 + 0.04 * torch.randn(n)) * TARGET_SIZE / x.shape[-1]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle) * scale
    theta[:, 1, 0] = torch.sin(angle) * scale
    theta[:, 0, 1] = -theta[:, 1, 0]
    theta[:, :, 2] = 0.03 * torch.randn(n, 2)
    theta[:, :, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    grid = F.affine_grid(theta, [n, 3, TARGET_SIZE, TARGET_SIZE], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return _vary_light(x).contiguous(memory_format=torch.channels_last), faces.embeddings[index, mirrored.long()]


def _vary_light(x: Tensor) -> Tensor:
    n = len(x)
    gain = 1 + 0.12 * torch.randn(n, 1, 1, 1) + 0.05 * torch.randn(n, 3, 1, 1)
    direction = 2 * math.pi * torch.rand(n, 1, 1, 1)
    line = torch.linspace(-1, 1, TARGET_SIZE)
    ramp = torch.cos(direction) * line.view(1, 1, 1, -1) + torch.sin(direction) * line.view(1, 1, -1, 1)
    x = x * gain * (1 + 0.12 * torch.randn(n, 1, 1, 1) * ramp) + 0.04 * torch.randn(n, 1, 1, 1)
    return x.clamp(0, 1) ** torch.exp(0.12 * torch.randn(n, 1, 1, 1))


def draw_foreign_sources(faces: Faces, n: int) -> Tensor:
    """Identities of other people [n,128]; a third are blended with yet another, to fill the space between people."""
    source = faces.embeddings[torch.randint(len(faces), (n,)), torch.randint(2, (n,))]
    other = faces.embeddings[torch.randint(len(faces), (n,)), 0]
    share = (torch.rand(n, 1) < 0.3).float() * torch.rand(n, 1) * 0.5
    return F.normalize(source * (1 - share) + other * share, dim=-1)


def disturb(x: Tensor) -> Tensor:
    """Crops [N,3,128,128] with a little noise, half of them slightly blurred: what a network hid in them is gone."""
    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    share = torch.rand(len(x), 1, 1, 1) * (torch.rand(len(x), 1, 1, 1) < 0.5)
    return (x + share * (blurred - x) + 0.012 * torch.randn_like(x)).clamp(0, 1)


def make_face_ellipse(softness: float = 12.0) -> Tensor:
    """[1,1,128,128]: 1 inside the ellipse that holds the face of an arcface_128 crop, 0 outside, with a soft edge."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    radius = (((x - 64) / 40) ** 2 + ((y - 66) / 50) ** 2).sqrt()
    return torch.sigmoid((1 - radius) * softness)[None, None]


def make_feature_weights() -> Tensor:
    """[1,1,128,128]: 1, and up to 3 around eyes and mouth of an arcface_128 crop, where people look first."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    weights = torch.ones(128, 128)
    for centre_x, centre_y, radius_x, radius_y in EYES_AND_MOUTH:
        weights += 2 * torch.exp(-(((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2) / 2)
    return weights[None, None]
