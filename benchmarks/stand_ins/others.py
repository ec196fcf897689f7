"""hififace, uniface, DeepFaceLab's SAEHD and Wav2Lip."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

from stand_ins.gpen import ModulatedConv
from stand_ins.plausible import Identity512


class AdaBlock(nn.Module):
    """hififace's residual block: normalisation (by an identity where ``styled``), activation, convolution, twice."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0, styled: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [nn.InstanceNorm2d(inputs, affine=not styled), nn.InstanceNorm2d(outputs, affine=not styled)]
        )
        self.styles = nn.ModuleList([nn.Linear(512, 2 * c) for c in (inputs, outputs)]) if styled else None
        self.convs = nn.ModuleList([nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)])
        self.skip, self.scale = nn.Conv2d(inputs, outputs, 1), scale

    def forward(self, x: torch.Tensor, identity: torch.Tensor | None = None) -> torch.Tensor:
        y = x
        for index, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            y = norm(y)
            if self.styles is not None and identity is not None:
                scale, shift = self.styles[index](identity).unsqueeze(-1).unsqueeze(-1).chunk(2, 1)
                y = y * (1 + scale) + shift
            y = conv(functional.leaky_relu(y, 0.2))
            if index == 0:
                y = self._resized(y)
        return (self._resized(self.skip(x)) + y) / 2**0.5

    def _resized(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale == 0.5:
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2, mode="nearest") if self.scale == 2 else x


class Hififace(nn.Module):
    """source [N,128], target [N,3,256,256] -1..1 -> picture -1..1 (Y. Wang et al., IJCAI 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.identity, self.stem = Identity512(), nn.Conv2d(3, 64, 3, 1, 1)
        self.first = nn.ModuleList([AdaBlock(64, 128, 0.5), AdaBlock(128, 256, 0.5)])
        self.encoder = nn.ModuleList(
            [
                AdaBlock(256, 512, 0.5),
                *(AdaBlock(512, 512, 0.5) for _ in range(2)),
                *(AdaBlock(512, 512) for _ in range(2)),
            ]
        )
        self.decoder = nn.ModuleList(
            [
                *(AdaBlock(512, 512, 1, True) for _ in range(3)),
                *(AdaBlock(512, 512, 2, True) for _ in range(2)),
                AdaBlock(512, 256, 2, True),
            ]
        )
        self.low, self.masker = AdaBlock(256, 256), nn.Conv2d(256, 1, 1)
        self.fused = nn.ModuleList(
            [AdaBlock(256, 256, 1, True), AdaBlock(256, 128, 2, True), AdaBlock(128, 64, 2, True)]
        )
        self.head, self.masker_large = nn.Conv2d(64, 3, 3, 1, 1), nn.Conv2d(64, 1, 3, 1, 1)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        identity, x = self.identity(source), self.stem(target)
        for block in self.first:
            x = block(x)
        low = self.low(x)
        for block in self.encoder:
            x = block(x)
        for block in self.decoder:
            x = block(x, identity)
        mask = torch.sigmoid(self.masker(x))
        x = mask * x + (1 - mask) * low
        for block in self.fused:
            x = block(x, identity)
        mask = torch.sigmoid(self.masker_large(x))
        return mask * torch.tanh(self.head(x)) + (1 - mask) * target


class Uniface(nn.Module):
    """source [N,3,256,256] 0..1, target [N,3,256,256] -1..1 -> picture -1..1.

    After the outline of C. Xu et al., ECCV 2022: both pictures encoded, the source to a style; a StyleGAN2 whose maps
    attend to the source's at 32 px and take the target's attributes as scale and shift.
    """

    def __init__(self, style: int = 512) -> None:
        super().__init__()
        widths = (3, 64, 128, 256, 512, 512)
        pairs = list(itertools.pairwise(widths))
        self.of_source, self.of_target = (nn.ModuleList([nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs]) for _ in range(2))
        self.style = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, style), nn.LeakyReLU(0.2), nn.Linear(style, style)
        )
        self.query, self.key, self.value = (nn.Conv2d(512, 512, 1) for _ in range(3))
        self.convs = nn.ModuleList([ModulatedConv(512, 512, 3, style)])
        for inputs, outputs in ((512, 512), (512, 256), (256, 128), (128, 64)):
            self.convs.append(ModulatedConv(inputs, outputs, 3, style, up=True))
            self.convs.append(ModulatedConv(outputs, outputs, 3, style))
        self.scales = nn.ModuleList([nn.Conv2d(c, 2 * c, 3, 1, 1) for c in (512, 256, 128, 64)])
        self.last, self.head = (
            ModulatedConv(64, 32, 3, style, up=True),
            ModulatedConv(32, 3, 1, style, demodulate=False),
        )

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        maps = []
        s, t = source * 2 - 1, target
        for of_source, of_target in zip(self.of_source, self.of_target, strict=True):
            s, t = functional.leaky_relu(of_source(s), 0.2), functional.leaky_relu(of_target(t), 0.2)
            maps.append(t)
        style = self.style(s)
        query, key, value = (conv(v).flatten(2) for conv, v in ((self.query, t), (self.key, s), (self.value, s)))
        weights = torch.softmax(query.transpose(1, 2) @ key / 512**0.5, dim=-1)
        x = t + (value @ weights.transpose(1, 2)).reshape(t.shape)
        x = functional.leaky_relu(self.convs[0](x, style), 0.2)
        for level in range(4):
            for conv in self.convs[2 * level + 1 : 2 * level + 3]:
                x = functional.leaky_relu(conv(x, style), 0.2) * 2**0.5
            scale, shift = self.scales[level](maps[3 - level]).chunk(2, 1)
            x = x * (1 + scale) + shift
        return torch.tanh(self.head(functional.leaky_relu(self.last(x, style), 0.2), style))


def depth_to_space(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 3, 1, 1), nn.LeakyReLU(0.1), nn.PixelShuffle(2))


class Twice(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.convs
        return functional.leaky_relu(x + second(functional.leaky_relu(first(x), 0.2)), 0.2)


class DFM(nn.Module):
    """DeepFaceLab's SAEHD (df-ud) as its exporter writes it: [N,224,224,3] BGR 0..1 -> face and two masks, NHWC."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 64, 128, 256, 512, 512)
        self.encoder = nn.ModuleList([nn.Conv2d(a, b, 5, 2, 2) for a, b in itertools.pairwise(widths)])
        self.inter = nn.Sequential(nn.Linear(512 * 49, 256), nn.Linear(256, 49 * 512))
        self.grown = depth_to_space(512, 512)
        self.up = nn.ModuleList([depth_to_space(a, b) for a, b in ((512, 512), (512, 256), (256, 128))])
        self.blocks = nn.ModuleList([Twice(c) for c in (512, 256, 128)])
        self.heads = nn.ModuleList([nn.Conv2d(128, 3, k, 1, k // 2) for k in (1, 3, 3, 3)])
        self.masks = nn.ModuleList([depth_to_space(a, b) for a, b in ((512, 176), (176, 88), (88, 44), (44, 22))])
        self.mask = nn.Conv2d(22, 1, 1)

    def forward(self, in_face: torch.Tensor) -> list[torch.Tensor]:
        x = in_face.permute(0, 3, 1, 2)
        for conv in self.encoder:
            x = functional.leaky_relu(conv(x), 0.1)
        x = x.reshape(x.shape[0], -1)
        x = x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6)
        x = m = self.grown(self.inter(x).reshape(x.shape[0], 512, 7, 7))
        for up, block in zip(self.up, self.blocks, strict=True):
            x = block(up(x))
        picture = torch.sigmoid(functional.pixel_shuffle(torch.cat([head(x) for head in self.heads], 1)[:, ORDER], 2))
        for up in self.masks:
            m = up(m)
        mask = torch.sigmoid(self.mask(m)).permute(0, 2, 3, 1)
        return [picture.permute(0, 2, 3, 1), mask, 1 - mask]


ORDER = [head * 3 + channel for channel in range(3) for head in range(4)]


class Cell(nn.Module):
    def __init__(self, conv: nn.Module, channels: int, residual: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.residual = conv, nn.BatchNorm2d(channels), residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return functional.relu(y + x if self.residual else y)


def cells(first: nn.Module, channels: int, residual: int) -> nn.Sequential:
    more = (Cell(nn.Conv2d(channels, channels, 3, 1, 1), channels, True) for _ in range(residual))
    return nn.Sequential(Cell(first, channels), *more)


class Wav2Lip(nn.Module):
    """mel [N,1,80,16], face [N,6,96,96] 0..1 (lower half black, then whole) -> picture 0..1.

    K. Prajwal et al., "A lip sync expert is all you need", ACM MM 2020, and its public code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.face = nn.ModuleList([cells(nn.Conv2d(6, 16, 7, 1, 3), 16, 0)])
        for inputs, outputs, count in ((16, 32, 2), (32, 64, 3), (64, 128, 2), (128, 256, 2), (256, 512, 1)):
            self.face.append(cells(nn.Conv2d(inputs, outputs, 3, 2, 1), outputs, count))
        self.face.append(nn.Sequential(Cell(nn.Conv2d(512, 512, 3), 512), Cell(nn.Conv2d(512, 512, 1), 512)))
        strides = ((1, 32, 1), (32, 64, (3, 1)), (64, 128, 3), (128, 256, (3, 2)))
        self.audio = nn.Sequential(
            *(cells(nn.Conv2d(a, b, 3, stride, 1), b, 2) for a, b, stride in strides),
            Cell(nn.Conv2d(256, 512, 3), 512), Cell(nn.Conv2d(512, 512, 1), 512),
        )  # fmt: skip
        self.decoder = nn.ModuleList(
            [cells(nn.Conv2d(512, 512, 1), 512, 0), cells(nn.ConvTranspose2d(1024, 512, 3), 512, 1)]
        )
        for inputs, outputs in ((1024, 512), (768, 384), (512, 256), (320, 128), (160, 64)):
            self.decoder.append(cells(nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1), outputs, 2))
        self.head = nn.Sequential(Cell(nn.Conv2d(80, 32, 3, 1, 1), 32), nn.Conv2d(32, 3, 1), nn.Sigmoid())

    def forward(self, mel: torch.Tensor, face: torch.Tensor) -> torch.Tensor:
        maps, x = [], face
        for block in self.face:
            x = block(x)
            maps.append(x)
        x = self.audio(mel)
        for block in self.decoder:
            x = torch.cat((block(x), maps.pop()), 1)
        return self.head(x)
