"""The reference generator: a small face swapper in the manner of SimSwap and inswapper.

It exists so that every step of the tool can be run, measured and tested on a network that really swaps faces and that
anybody may ship. It has the parts that make such networks hard to quantise: AdaIN residual blocks, an attention block,
skip connections that are concatenated, a residual add on the decoder's path, and a ToRGB head. It also says where its
paint is to replace the target, so that hair and background are the target's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TARGET_SIZE = 128
"""Side of the target crop and of the output, in pixels."""

SOURCE_DIM = 128
"""Length of the source identity vector (a dlib embedding, L2-normalised)."""

_LEAK = 0.2


class AdaIN(nn.Module):
    """Adaptive instance normalisation (Huang and Belongie, arXiv 1703.06868): ``norm(x) * (1 + gamma) + beta``."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.style = nn.Linear(style_dim, 2 * channels)
        nn.init.normal_(self.style.weight, std=0.02)
        nn.init.zeros_(self.style.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Normalise ``x`` [N,C,H,W] and scale it by ``style`` [N,S]."""
        gamma, beta = self.style(style)[:, :, None, None].chunk(2, 1)
        out: Tensor = F.instance_norm(x, eps=1e-5) * (1 + gamma) + beta
        return out


class StyleAffine(AdaIN):
    """The affine half of AdaIN. Without the norm the decoder's main path keeps the colours of the target."""

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Scale ``x`` [N,C,H,W] by ``style`` [N,S]."""
        gamma, beta = self.style(style)[:, :, None, None].chunk(2, 1)
        out: Tensor = x * (1 + gamma) + beta
        return out


class StyledResidual(nn.Module):
    """Two convolutions, each followed by AdaIN, added to the input."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = AdaIN(channels, style_dim)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = AdaIN(channels, style_dim)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map [N,C,H,W] and [N,S] to [N,C,H,W]."""
        y = F.relu(self.norm1(self.conv1(x), style))
        out: Tensor = x + self.norm2(self.conv2(y), style)
        return out


class SelfAttention(nn.Module):
    """Single-head attention over all positions, added to the input; starts as the identity."""

    def __init__(self, channels: int, head_dim: int = 32) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, head_dim, 1)
        self.key = nn.Conv2d(channels, head_dim, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        self.scale = head_dim**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C,H,W] to [N,C,H,W]."""
        _, c, h, w = x.shape
        query = self.query(x).flatten(2).transpose(1, 2)
        weights = torch.softmax(torch.matmul(query, self.key(x).flatten(2)) * self.scale, -1)
        mixed = torch.matmul(weights, self.value(x).flatten(2).transpose(1, 2))
        out: Tensor = x + self.out(mixed.transpose(1, 2).reshape(-1, c, h, w))
        return out


class ReferenceGenerator(nn.Module):
    """Face swapper: the pose, light and background of ``target`` with the identity of ``source``.

    Inputs: ``target`` [N,3,128,128] RGB in [0,1], aligned with the template ``arcface_128``; ``source`` [N,128], an
    L2-normalised dlib embedding. Outputs: the picture [N,3,128,128] RGB in [0,1], paint blended with the target, and
    the mask [N,1,128,128] in [0,1] that it is blended by, 1 where the paint is. It is made at half size and has no
    fine structure. The paint reads the target's features at full size, too: skin keeps its grain.
    """

    OUTPUTS = ("output", "mask")

    def __init__(
        self, widths: tuple[int, int, int, int] = (32, 64, 128, 192), style_dim: int = 256, detail: int = 16
    ) -> None:
        super().__init__()
        w128, w64, w32, w16 = widths
        self.stem = nn.Conv2d(3, w128, 7, padding=3)
        self.down1 = nn.Conv2d(w128, w64, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(w64, w32, 3, stride=2, padding=1)
        self.down3 = nn.Conv2d(w32, w16, 3, stride=2, padding=1)
        self.mapping = nn.Linear(SOURCE_DIM, style_dim)
        self.blocks = nn.ModuleList(StyledResidual(w16, style_dim) for _ in range(3))
        self.attention = SelfAttention(w16)
        self.skip32 = nn.Conv2d(w32, w32 // 2, 1)
        self.skip64 = nn.Conv2d(w64, w64 // 2, 1)
        self.up1 = nn.Conv2d(w16 + w32 // 2, w32, 3, padding=1)
        self.up1_style = StyleAffine(w32, style_dim)
        self.up1_residual = nn.Conv2d(w32, w32, 3, padding=1)
        self.up1_norm = AdaIN(w32, style_dim)
        self.up2 = nn.Conv2d(w32 + w64 // 2, w64, 3, padding=1)
        self.up2_style = StyleAffine(w64, style_dim)
        self.skip128 = nn.Conv2d(w128, detail, 1)
        self.up3 = nn.Conv2d(w64 + detail, w128, 3, padding=1)
        self.to_rgb = nn.Conv2d(w128, 3, 3, padding=1)
        self.to_mask = nn.Conv2d(w64, 1, 3, padding=1)

    def forward(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Swap: see the class for shapes and ranges."""
        paint, mask = self.paint(target, source)
        return target + mask * (paint - target), mask

    def paint(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """The paint [N,3,128,128] and the mask [N,1,128,128], not yet blended."""
        x128, x64 = self.decode(target, source)
        x = _act(self.up3(torch.cat([_upsample(x64), self.skip128(x128)], 1)))
        return torch.sigmoid(self.to_rgb(x)), torch.sigmoid(_upsample(self.to_mask(x64)))

    def decode(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the target at its full size, and those of the swapped face at half of it."""
        style = _act(self.mapping(source))
        x128 = _act(self.stem(target * 2 - 1))
        x64 = _act(self.down1(x128))
        x32 = _act(self.down2(x64))
        x = self.blocks[0](_act(self.down3(x32)), style)
        x = self.attention(x)
        for block in self.blocks[1:]:
            x = block(x, style)
        x = F.relu(self.up1_style(self.up1(torch.cat([_upsample(x), self.skip32(x32)], 1)), style))
        x = _act(x + self.up1_norm(self.up1_residual(x), style))
        return x128, _act(self.up2_style(self.up2(torch.cat([_upsample(x), self.skip64(x64)], 1)), style))


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _LEAK)
