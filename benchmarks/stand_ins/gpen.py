"""GPEN: an encoder whose maps are the noise of a StyleGAN2 (T. Yang et al., CVPR 2021; its code without CUDA)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

KERNEL = (1.0, 3.0, 3.0, 1.0)


def upfirdn(x: torch.Tensor, kernel: torch.Tensor, up: int = 1, pad: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """Zeros between the pixels, padding, a filter; as the code does it where CUDA is missing."""
    batch, channels, height, width = (int(size) for size in x.shape)
    x = x.reshape(-1, height, 1, width, 1)
    x = functional.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(-1, 1, height * up, width * up)
    x = functional.pad(x, [pad[0], pad[1], pad[0], pad[1]])
    x = functional.conv2d(x, torch.flip(kernel, [0, 1]).view(1, 1, *kernel.shape))
    return x.reshape(batch, channels, x.shape[2], x.shape[3])


class Filter(nn.Module):
    def __init__(self, pad: tuple[int, int], up: int = 1) -> None:
        super().__init__()
        row = torch.tensor(KERNEL)
        self.register_buffer("kernel", torch.outer(row, row) / row.sum() ** 2 * up**2)
        self.pad, self.up = pad, up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upfirdn(x, self.kernel, self.up, self.pad)


class EqualLinear(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0, activated: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale, self.rate, self.activated = rate / math.sqrt(inputs), rate, activated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.linear(x, self.weight * self.scale, self.bias * self.rate)
        return functional.leaky_relu(y, 0.2) * 2**0.5 if self.activated else y


class Activation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, channels, 1, 1) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(x + self.bias, 0.2) * 2**0.5


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, down: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale, self.activation = 1 / math.sqrt(inputs * kernel**2), Activation(outputs)
        self.blur, self.stride = (Filter((2, 2)) if down else nn.Identity()), (2 if down else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(functional.conv2d(self.blur(x), self.weight * self.scale, stride=self.stride))


class ModulatedConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, style: int, demodulate: bool = True, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.scale, self.modulation = 1 / math.sqrt(inputs * kernel**2), EqualLinear(style, inputs, bias=1.0)
        self.demodulate, self.blur = demodulate, (Filter((1, 1)) if up else None)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        batch, height, width = int(x.shape[0]), x.shape[2], x.shape[3]
        _, outputs, inputs, kernel, _ = self.weight.shape
        weight = self.scale * self.weight * self.modulation(style).view(batch, 1, inputs, 1, 1)
        if self.demodulate:
            norm = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
            weight = weight * norm.view(batch, outputs, 1, 1, 1)
        weight = weight.view(batch * outputs, inputs, kernel, kernel)
        x = x.view(1, batch * inputs, height, width)
        if self.blur is None:
            y = functional.conv2d(x, weight, padding=kernel // 2, groups=batch)
            return y.view(batch, outputs, height, width)
        weight = weight.view(batch, outputs, inputs, kernel, kernel).transpose(1, 2)
        weight = weight.reshape(batch * inputs, outputs, kernel, kernel)
        y = functional.conv_transpose2d(x, weight, stride=2, groups=batch)
        return self.blur(y.view(batch, outputs, y.shape[2], y.shape[3]))


class StyledConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, style: int, up: bool = False) -> None:
        super().__init__()
        self.conv, self.gain = ModulatedConv(inputs, outputs, 3, style, up=up), nn.Parameter(torch.full((1,), 0.5))
        self.activation = Activation(2 * outputs)

    def forward(self, x: torch.Tensor, style: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.activation(torch.cat((self.conv(x, style), self.gain * noise), 1))


class ToRGB(nn.Module):
    def __init__(self, inputs: int, style: int, up: bool) -> None:
        super().__init__()
        self.conv, self.bias = (
            ModulatedConv(inputs, 3, 1, style, demodulate=False),
            nn.Parameter(torch.zeros(1, 3, 1, 1)),
        )
        self.up = Filter((2, 1), up=2) if up else None

    def forward(self, x: torch.Tensor, style: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        y = self.conv(x, style) + self.bias
        return y if skip is None or self.up is None else y + self.up(skip)


class GPEN(nn.Module):
    """Picture [1,3,S,S] -1..1 -> picture."""

    def __init__(self, size: int, multiplier: int = 2, narrow: float = 1.0, style: int = 512) -> None:
        super().__init__()
        plain = {2**i: 512 for i in range(2, 7)} | {128: 128, 256: 64, 512: 32}
        width = {
            s: int((c if s < 64 else 256 * multiplier if s == 64 else c * multiplier) * narrow)
            for s, c in plain.items()
        }
        sizes = [2**i for i in range(int(math.log2(size)), 1, -1)]
        self.encoder = nn.ModuleList([Down(3, width[size], 1, False)])
        self.encoder.extend(Down(width[a], width[b], 3, True) for a, b in itertools.pairwise(sizes))
        self.latent = EqualLinear(width[4] * 16, style, activated=True)
        self.mapping = nn.Sequential(*(EqualLinear(style, style, rate=0.01, activated=True) for _ in range(8)))
        self.constant = nn.Parameter(torch.randn(1, width[4], 4, 4))
        self.convs = nn.ModuleList([StyledConv(width[4], width[4], style)])
        self.to_rgb = nn.ModuleList([ToRGB(2 * width[4], style, False)])
        for small, large in zip(sizes[::-1], sizes[::-1][1:], strict=False):
            self.convs.append(StyledConv(2 * width[small], width[large], style, up=True))
            self.convs.append(StyledConv(2 * width[large], width[large], style))
            self.to_rgb.append(ToRGB(2 * width[large], style, True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps: list[torch.Tensor] = []
        for layer in self.encoder:
            x = layer(x)
            maps.append(x)
        style = self.latent(x.reshape(x.shape[0], -1))
        style = self.mapping(style * torch.rsqrt(torch.mean(style**2, dim=1, keepdim=True) + 1e-8))
        return self._paint(style, maps[::-1])

    def _paint(self, style: torch.Tensor, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        x = self.convs[0](self.constant.repeat(int(style.shape[0]), 1, 1, 1), style, maps[0])
        skip = self.to_rgb[0](x, style, None)
        for level, noise in enumerate(maps[1:]):
            x = self.convs[2 * level + 1](x, style, noise)
            x = self.convs[2 * level + 2](x, style, noise)
            skip = self.to_rgb[level + 1](x, style, skip)
        return skip
