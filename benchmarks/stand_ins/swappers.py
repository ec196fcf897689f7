"""inswapper and SimSwap: an autoencoder whose bottleneck is styled by an identity, as their public code has it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from stand_ins.plausible import Identity512


class Styled(nn.Module):
    """Instance normalisation in primitive operators, then scale and shift from the identity."""

    def __init__(self, channels: int, plus_one: bool) -> None:
        super().__init__()
        self.style, self.plus_one = nn.Linear(512, 2 * channels), plus_one

    def forward(self, x: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        x = x - x.mean((2, 3), keepdim=True)
        x = x * torch.rsqrt((x * x).mean((2, 3), keepdim=True) + 1e-8)
        scale, shift = self.style(identity).unsqueeze(2).unsqueeze(3).chunk(2, dim=1)
        return x * (scale + 1 if self.plus_one else scale * 5) + shift


class Block(nn.Module):
    def __init__(self, channels: int, plus_one: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3) for _ in range(2)])
        self.styles = nn.ModuleList([Styled(channels, plus_one) for _ in range(2)])

    def forward(self, x: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        y = x
        for index, (conv, style) in enumerate(zip(self.convs, self.styles, strict=True)):
            y = style(conv(functional.pad(y, (1, 1, 1, 1), mode="reflect")), identity)
            y = functional.relu(y) if index == 0 else y
        return x + y


def doubled(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Inswapper(nn.Module):
    """target [N,3,128,128] 0..1, source [N,128] -> picture 0..1. 138 million weights at ``width`` 128."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        w = width
        self.identity = Identity512()
        self.stem = nn.Conv2d(3, w, 7)
        self.down = nn.ModuleList(
            [nn.Conv2d(w, 2 * w, 3, 1, 1), nn.Conv2d(2 * w, 4 * w, 3, 2, 1), nn.Conv2d(4 * w, 8 * w, 3, 2, 1)]
        )
        self.blocks = nn.ModuleList([Block(8 * w, False) for _ in range(6)])
        self.up = nn.ModuleList([nn.Conv2d(8 * w, 4 * w, 3, 1, 1), nn.Conv2d(4 * w, 2 * w, 3, 1, 1)])
        self.last, self.head = nn.Conv2d(2 * w, w, 3, 1, 1), nn.Conv2d(w, 3, 7)

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        identity = self.identity(source)
        x = functional.leaky_relu(self.stem(functional.pad(target, (3,) * 4, mode="reflect")), 0.2)
        for conv in self.down:
            x = functional.leaky_relu(conv(x), 0.2)
        for block in self.blocks:
            x = block(x, identity)
        for conv in self.up:
            x = functional.leaky_relu(conv(doubled(x)), 0.2)
        x = functional.leaky_relu(self.last(x), 0.2)
        return (torch.tanh(self.head(functional.pad(x, (3,) * 4, mode="reflect"))) + 1) / 2


def normed(inputs: int, outputs: int, kernel: int, stride: int = 1, pad: int = 0) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, pad), nn.BatchNorm2d(outputs), nn.ReLU())


class SimSwap(nn.Module):
    """target [N,3,224,224] 0..1, source [N,128] -> picture 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = Identity512()
        self.stem = nn.Sequential(nn.ReflectionPad2d(3), normed(3, 64, 7))
        self.down = nn.Sequential(*(normed(64 * 2**i, 128 * 2**i, 3, 2, 1) for i in range(3)))
        self.blocks = nn.ModuleList([Block(512, True) for _ in range(9)])
        self.up = nn.ModuleList([normed(512 // 2**i, 256 // 2**i, 3, 1, 1) for i in range(3)])
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(64, 3, 7))

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        identity = self.identity(source)
        x = self.down(self.stem(target))
        for block in self.blocks:
            x = block(x, identity)
        for conv in self.up:
            x = conv(doubled(x))
        return (torch.tanh(self.head(x)) + 1) / 2
