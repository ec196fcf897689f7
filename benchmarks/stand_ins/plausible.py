"""Random weights, but pictures that look like pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

SHARE = 0.35
"""How much of the picture is the network's; the rest is the face that went in."""


class Plausible(nn.Module):
    """A network whose picture is brought to the contrast of photos and laid over the face that went in.

    A network of random weights gives textures, and small errors in them would tell nothing about faces. Laid over the
    face they are noise-like detail. Mean and deviation of what the network gives are measured
    once.
    SSIM drops are those of this blend: they tell chaos from order, not how good a trained network's INT8 is.
    """

    def __init__(self, net: nn.Module, image: int, example: Sequence[torch.Tensor], low: float, high: float) -> None:
        super().__init__()
        self.net, self.image, self.low, self.high = net.eval(), image, low, high
        with torch.no_grad():
            first, *_ = _listed(self.net(*example))
        size = (high - low) / 2
        self.gain = float(size * SHARE / 2 / first.std().clamp(min=1e-6))
        self.offset = float((low + high) / 2 * SHARE - first.mean() * self.gain)

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        first, *rest = _listed(self.net(*inputs))
        face = self.face(inputs[self.image])
        return [torch.clamp(face * (1 - SHARE) + first * self.gain + self.offset, self.low, self.high), *rest]

    def face(self, image: torch.Tensor) -> torch.Tensor:
        """The face as the output has it: enlarged where the network enlarges."""
        scale = getattr(self.net, "scale", 1)
        return image if scale == 1 else nn.functional.interpolate(image, scale_factor=scale, mode="nearest")


def _listed(made: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [made] if isinstance(made, torch.Tensor) else [value for value in made if isinstance(value, torch.Tensor)]


class Identity512(nn.Module):
    """512 values of unit length from the 128 of the bundled embedder, so that swappers keep their 512-wide inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(128, 512, bias=False)

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.linear(vector), dim=1)
