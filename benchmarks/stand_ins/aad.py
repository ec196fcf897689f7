"""Swappers after FaceShifter (L. Li et al., CVPR 2020): maps of the target's attributes, denormalised with an identity.

ghost (A. Groshev et al., IEEE Access 2022) is that network; hyperswap uses the same layers in a U-Net with a mask that
blends inside of the graph; blendswap (K. Shiohara et al., ICCV 2023) adds the recogniser of the source.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

from stand_ins.plausible import Identity512


def down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))


class Up(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return torch.cat((functional.leaky_relu(self.norm(self.deconv(x)), 0.1), skip), 1)


class Attributes(nn.Module):
    """Maps [N,C,H,W] of the target at eight sizes, the smallest first."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256, 512, 1024, 1024)
        self.down = nn.ModuleList([down(a, b) for a, b in itertools.pairwise(widths)])
        self.up = nn.ModuleList(
            [Up(a, b) for a, b in ((1024, 1024), (2048, 512), (1024, 256), (512, 128), (256, 64), (128, 32))]
        )

    def forward(self, target: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], target
        for layer in self.down:
            x = layer(x)
            maps.append(x)
        found = [x]
        for layer, skip in zip(self.up, maps[-2::-1], strict=True):
            x = layer(x, skip)
            found.append(x)
        return [*found, functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)]


class AAD(nn.Module):
    def __init__(self, channels: int, attributes: int) -> None:
        super().__init__()
        self.from_map = nn.ModuleList([nn.Conv2d(attributes, channels, 1) for _ in range(2)])
        self.from_identity = nn.ModuleList([nn.Linear(512, channels) for _ in range(2)])
        self.norm, self.mask = nn.InstanceNorm2d(channels), nn.Conv2d(channels, 1, 1)

    def forward(self, x: torch.Tensor, attributes: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        scale, shift = (conv(attributes) for conv in self.from_map)
        own, moved = (linear(identity).reshape(x.shape[0], -1, 1, 1) for linear in self.from_identity)
        mask = torch.sigmoid(self.mask(x))
        return (1 - mask) * (scale * x + shift) + mask * ((own * 5 + 1) * x + moved * 5)


class AADBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, attributes: int) -> None:
        super().__init__()
        widths = [(inputs, inputs), (inputs, outputs)]
        self.denormed = nn.ModuleList([AAD(a, attributes) for a, _ in widths])
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, 1, 1, bias=False) for a, b in widths])
        self.beside = AAD(inputs, attributes) if inputs != outputs else None
        self.skip = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor, attributes: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        y = x
        for denormed, conv in zip(self.denormed, self.convs, strict=True):
            y = conv(functional.relu(denormed(y, attributes, identity)))
        if self.beside is None or self.skip is None:
            return x + y
        return y + self.skip(functional.relu(self.beside(x, attributes, identity)))


class Ghost(nn.Module):
    """target [N,3,256,256] -1..1, source [N,128] -> picture -1..1."""

    def __init__(self) -> None:
        super().__init__()
        self.identity, self.attributes = Identity512(), Attributes()
        self.seed = nn.ConvTranspose2d(512, 1024, 2)
        maps = (1024, 2048, 1024, 512, 256, 128, 64, 64)
        widths = ((1024, 1024), (1024, 1024), (1024, 1024), (1024, 512), (512, 256), (256, 128), (128, 64), (64, 3))
        self.blocks = nn.ModuleList([AADBlock(a, b, m) for (a, b), m in zip(widths, maps, strict=True)])

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return self.painted(target, self.identity(source))

    def painted(self, target: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        maps = self.attributes(target)
        x = self.seed(identity.reshape(identity.shape[0], -1, 1, 1))
        for index, (block, attributes) in enumerate(zip(self.blocks, maps, strict=True)):
            x = block(x, attributes, identity)
            if index < len(maps) - 1:
                x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return torch.tanh(x)


class Hyperswap(nn.Module):
    """source [N,128], target [N,3,256,256] -1..1 -> picture -1..1 and mask [N,1,256,256]."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = Identity512()
        widths = (3, 64, 128, 256, 512, 1024)
        self.down = nn.ModuleList([down(a, b) for a, b in itertools.pairwise(widths)])
        levels = ((1024, 1024, 1024), (1024, 512, 512), (512, 256, 256), (256, 128, 128), (128, 64, 64))
        self.blocks = nn.ModuleList([nn.ModuleList([AADBlock(a, a, m), AADBlock(a, b, m)]) for a, b, m in levels])
        self.head = nn.Conv2d(64, 3, 3, 1, 1)
        self.masker = nn.Sequential(nn.Conv2d(6, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 1, 3, 1, 1), nn.Sigmoid())

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        identity, maps, x = self.identity(source), [], target
        for layer in self.down:
            x = layer(x)
            maps.append(x)
        for blocks, attributes in zip(self.blocks, maps[::-1], strict=True):
            for block in blocks:
                x = block(x, attributes, identity)
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
        swapped = torch.tanh(self.head(x))
        mask = self.masker(torch.cat((swapped, target), 1))
        return [swapped * mask + target * (1 - mask), mask]


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
            nn.PReLU(outputs), nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        plain = stride == 1 and inputs == outputs
        beside = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.skip = nn.Identity() if plain else beside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.skip(x) + 0.3 * self.body(x)


class Recogniser(nn.Module):
    """ArcFace's ResNet-50 for 112 px."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
        width = 64
        for outputs, count in ((64, 3), (128, 4), (256, 14), (512, 3)):
            for index in range(count):
                layers.append(Residual(width, outputs, 2 if index == 0 else 1))
                width = outputs
        self.body = nn.Sequential(
            *layers, nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 49, 512), nn.BatchNorm1d(512)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.body(x * 2 - 1), dim=1)


class Blendswap(nn.Module):
    """source [N,3,112,112] 0..1, target [N,3,256,256] 0..1 -> picture 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.recogniser, self.generator = Recogniser(), Ghost()

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (self.generator.painted(target * 2 - 1, self.recogniser(source)) + 1) / 2
