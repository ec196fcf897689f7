"""What the reference generator is trained to please: terms of its loss, and the critics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from make_samples import PerceptualDistance
from onnx_torch import OnnxModule
from reference_faces import make_face_ellipse, make_feature_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from trt_facefusion.faces.align import fit_templates
from trt_facefusion.model.generators.reference import TARGET_SIZE

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms.

    `restored_*` act where a photo is known to be right: a face that is given its own identity, and a swapped face that
    is given back the identity it had. The others act on faces that are given another person's.
    """

    restored_l1: float = 5.0
    restored_ssim: float = 2.0
    restored_gradient: float = 2.0
    restored_perceptual: float = 0.5
    identity: float = 1.3
    away_from_target: float = 0.4
    realism: float = 0.2
    background: float = 5.0
    low_frequency: float = 4.0
    inside_l1: float = 0.5
    inside_gradient: float = 0.4
    chroma: float = 8.0
    marks: float = 8.0
    mask_outside: float = 1.0
    mask_inside: float = 0.3
    mask_edges: float = 0.5
    mask_between: float = 0.1


IDENTITY_ENOUGH = 0.75
"""Centred cosine to the source from which on more earns nothing: beyond it only what no person sees pleases dlib."""


class PatchCritic(nn.Sequential):
    """Says patch by patch whether a crop is a photo (spectral norm, hinge loss); a patch is 38 px wide."""

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = []
        for inner, outer in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [spectral_norm(nn.Conv2d(inner, outer, 4, 2, 1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 3, 1, 1)))


class Critics(nn.Module):
    """A critic of skin, at full size, and one of features, at half: eyes and mouths are as wide as its patches."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.fine, self.coarse = PatchCritic(width), PatchCritic(width)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Scores of the patches of ``x`` [N,3,H,W] in [0,1], higher where it looks like a photo."""
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.fine(x * 2 - 1), self.coarse(F.avg_pool2d(x, 2) * 2 - 1)
        return [score.float() for score in scores]


def judge_critics(critics: Critics, real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the critics on photos and on generated crops."""
    pairs = zip(critics(real), critics(fake), strict=True)
    return torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs]).mean()


class IdentityLoss:
    """Differentiable dlib embeddings of generated crops, centred on the training set's mean."""

    def __init__(self, embedder: Path, embeddings: Tensor) -> None:
        self.net = OnnxModule(embedder).to(memory_format=torch.channels_last)
        self.mean = embeddings.reshape(-1, embeddings.shape[-1]).mean(0)
        matrix = np.vstack([fit_templates("arcface_128", TARGET_SIZE, "dlib_150", 150), [0, 0, 1]])
        self.crop_from_chip = torch.from_numpy(np.linalg.inv(matrix)).float()
        y, x = torch.meshgrid(torch.arange(150.0), torch.arange(150.0), indexing="ij")
        self.points = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)

    def centre(self, embedding: Tensor) -> Tensor:
        """Unit vectors of ``embedding`` [N,128] as seen from the mean of all people."""
        return F.normalize(F.normalize(embedding, dim=-1) - self.mean, dim=-1)

    def chips(self, crops: Tensor, jitter: bool) -> Tensor:
        """Resample crops [N,3,128,128] to the embedder's chips [N,3,150,150], with a small random motion if asked."""
        n = len(crops)
        matrix = self.crop_from_chip.expand(n, 3, 3)
        if jitter:
            matrix = matrix @ _draw_motion(n)
        grid = (self.points @ matrix.transpose(1, 2))[..., :2]
        grid = ((2 * grid + 1) / TARGET_SIZE - 1).view(n, 150, 150, 2)
        return F.grid_sample(crops, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def embed(self, crops: Tensor, *, jitter: bool = False) -> Tensor:
        """Raw embeddings [N,128]. Jittered inputs are also greyed, blurred and covered at random: neither colours nor
        fine patterns nor a single spot pay."""
        chips = self.chips(blur(crops) if jitter else crops, jitter)
        if jitter:
            chips = _cover(_grey(chips))
        with torch.autocast("cpu", torch.bfloat16):
            out: Tensor = self.net((chips * 255).contiguous(memory_format=torch.channels_last))[0]
        return out.float()

    def terms(self, out: Tensor, source: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """How much of ``source`` [N,128] the crops ``out`` lack, and how much of ``own`` they keep beyond what both
        share."""
        embedding, source, own = self.centre(self.embed(out, jitter=True)), self.centre(source), self.centre(own)
        lacking = F.relu(IDENTITY_ENOUGH - (embedding * source).sum(1)).mean()
        leak = (embedding * own).sum(1) - (source * own).sum(1)
        return lacking, F.relu(leak).mean()


def blur(x: Tensor) -> Tensor:
    """Crops, each blurred by a Gaussian of a random width of up to 2 px."""
    sigma = 2 * torch.rand(len(x)).clamp(min=0.05)
    taps = torch.arange(-4.0, 5.0)
    kernel = torch.exp(-((taps[None] / sigma[:, None]) ** 2) / 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(x.shape[1], 0)
    flat = F.pad(x, (4, 4, 4, 4), mode="replicate").reshape(1, -1, x.shape[2] + 8, x.shape[3] + 8)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel)).view_as(x)


def _grey(chips: Tensor) -> Tensor:
    grey = (torch.rand(len(chips), 1, 1, 1) < 0.5).float()
    chips = chips * (1 - grey) + grey * (chips * LUMA).sum(1, keepdim=True)
    return chips * (1 + 0.06 * torch.randn(len(chips), 3, 1, 1))


def _cover(chips: Tensor) -> Tensor:
    """Half of the chips with a square of a third of their width replaced by their mean colour."""
    size = chips.shape[-1]
    corner = torch.rand(len(chips), 2, 1) * size * 2 / 3
    axis = torch.arange(float(size))
    inside = (axis >= corner) & (axis < corner + size / 3)
    square = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None] & (torch.rand(len(chips), 1, 1, 1) < 0.5)
    return torch.where(square, chips.mean((2, 3), keepdim=True).detach(), chips)


def _draw_motion(n: int) -> Tensor:
    """Small random similarity transforms [n,3,3] about the centre of a 150 px chip."""
    angle, scale = 0.04 * torch.randn(n), 1 + 0.03 * torch.randn(n)
    motion = torch.zeros(n, 3, 3)
    motion[:, 0, 0] = motion[:, 1, 1] = torch.cos(angle) * scale
    motion[:, 1, 0] = torch.sin(angle) * scale
    motion[:, 0, 1] = -motion[:, 1, 0]
    motion[:, 2, 2] = 1
    centre = torch.eye(3)
    centre[0, 2] = centre[1, 2] = 75
    back = torch.eye(3)
    back[0, 2] = back[1, 2] = -75
    motion[:, :2, 2] = 1.5 * torch.randn(n, 2)
    return centre @ motion @ back


def box_ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM map over a 7x7 box at every second pixel: the fast variant used as a loss, not a reported figure."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 7, 2, 3, count_include_pad=False)

    mean_a, mean_b = mean(a), mean(b)
    var = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    return ((2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)) / ((mean_a**2 + mean_b**2 + 1e-4) * (var + 9e-4))


def gradient_difference(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of image gradients over a pyramid."""
    total = torch.zeros(())
    for _ in range(scales):
        delta = a - b
        total = total + (delta[..., 1:] - delta[..., :-1]).abs().mean()
        total = total + (delta[..., 1:, :] - delta[..., :-1, :]).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / scales


def measure_marks(out: Tensor, target: Tensor) -> Tensor:
    """Fine contrast of ``out`` beyond what ``target`` has within 4 px, mean over all pixels, in units of brightness.

    What is drawn on smooth skin counts; eyes that move a little do not.
    """

    def fine_contrast(x: Tensor) -> Tensor:
        grey = (x * LUMA).sum(1, keepdim=True)
        detail = grey - F.avg_pool2d(grey, 5, 1, 2, count_include_pad=False)
        return (F.avg_pool2d(detail.square(), 5, 2, 2) + 1e-5).sqrt()

    allowed = F.max_pool2d(fine_contrast(target), 5, 1, 2)
    return F.relu(fine_contrast(out) - allowed).mean()


class Losses:
    """The weighted terms of one batch's loss."""

    def __init__(self, identity: IdentityLoss, weights: LossWeights) -> None:
        self.identity, self.weights = identity, weights
        self.perceptual = PerceptualDistance()
        self.ellipse, self.features = make_face_ellipse(), make_feature_weights()

    def restored(self, out: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Of pictures [N,3,128,128] that should be the photos ``truth``."""
        w = self.weights
        return {
            "restored_l1": w.restored_l1 * ((out - truth).abs() * self.features).mean(),
            "restored_ssim": w.restored_ssim * (1 - box_ssim(out, truth)).mean(),
            "restored_gradient": w.restored_gradient * gradient_difference(out, truth),
            "restored_perceptual": w.restored_perceptual * self.perceptual(out, truth),
        }

    def swapped(self, out: Tensor, target: Tensor, source: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Of pictures in which ``target``, whose identity is ``own``, was given ``source``."""
        w = self.weights
        lacking, leak = self.identity.terms(out, source, own)
        difference = (out - target).abs()
        chroma_out, chroma_target = (v - (v * LUMA).sum(1, keepdim=True) for v in (out, target))
        return {
            "identity": w.identity * lacking,
            "away_from_target": w.away_from_target * leak,
            "background": w.background * (difference * (1 - self.ellipse)).mean(),
            "low_frequency": w.low_frequency * (F.avg_pool2d(out, 8) - F.avg_pool2d(target, 8)).abs().mean(),
            "inside_l1": w.inside_l1 * (difference * self.ellipse).mean(),
            "inside_gradient": w.inside_gradient * gradient_difference(out, target),
            "chroma": w.chroma * (chroma_out - chroma_target).abs().mean(),
            "marks": w.marks * measure_marks(out, target),
        }

    def masked(self, mask: Tensor) -> dict[str, Tensor]:
        """Of masks [N,1,128,128]: they cover the face and no more, have short edges, and are rarely half open, because
        a blend of two faces shows both."""
        w = self.weights
        edges = (mask[..., 1:] - mask[..., :-1]).abs().mean() + (mask[..., 1:, :] - mask[..., :-1, :]).abs().mean()
        return {
            "mask_outside": w.mask_outside * (mask * (1 - self.ellipse)).mean(),
            "mask_inside": w.mask_inside * ((1 - mask) * self.ellipse).mean(),
            "mask_edges": w.mask_edges * edges,
            "mask_between": w.mask_between * (mask * (1 - mask)).mean(),
        }
