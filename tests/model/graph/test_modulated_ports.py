"""Modulated convolutions as other public ports of StyleGAN2 and StyleGAN3 write them."""

from __future__ import annotations

import pytest
from test_modulated import assert_rewritten, exported, functional, nn, picture, torch


class Port(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.style, self.head = nn.Conv2d(3, 6, 3, 1, 1), nn.Linear(6, 6), nn.Conv2d(8, 3, 1)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6, 3, 3) * 0.2), nn.Parameter(torch.randn(8))
        self.gain = nn.Parameter(torch.rand(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return torch.tanh(self.head(self.modulated(x, self.style(x.mean((2, 3))))))


class PlusOne(Port):
    """Styles around 0, norms that keep their axes."""

    def modulated(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        weight = self.weight[None] * (style[:, None, :, None, None] + 1)
        weight = weight * torch.rsqrt((weight**2).sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
        x, weight = x.reshape(1, -1, height, width), weight.reshape(batch * 8, 6, 3, 3)
        return functional.conv2d(x, weight, padding=1, groups=batch).reshape(-1, 8, height, width)


class Normalised(Port):
    """StyleGAN3: weights and styles are normalised beforehand; a gain for each input channel on top."""

    def modulated(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        weight = self.weight * self.weight.square().mean([1, 2, 3], keepdim=True).rsqrt()
        style = style * style.square().mean().rsqrt()
        weight = weight.unsqueeze(0) * style.unsqueeze(1).unsqueeze(3).unsqueeze(4)
        norm = (weight.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt()
        weight = weight * norm.unsqueeze(2).unsqueeze(3).unsqueeze(4)
        weight = weight * self.gain.expand(batch, 6).unsqueeze(1).unsqueeze(3).unsqueeze(4)
        y = functional.conv2d(x.reshape(1, -1, *x.shape[2:]), weight.reshape(-1, 6, 3, 3), padding=1, groups=batch)
        return y.reshape(batch, -1, *y.shape[2:])


class Unit(Port):
    """Norms by torch's own `normalize`, a bias, and every second position."""

    def modulated(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        weight = functional.normalize(self.weight[None] * style.view(batch, 1, channels, 1, 1), dim=(2, 3, 4))
        x, weight = x.view(1, batch * channels, height, width), weight.view(batch * 8, channels, 3, 3)
        y = functional.conv2d(x, weight, self.bias.repeat(batch), padding=1, stride=2, groups=batch)
        return y.view(batch, 8, height // 2, width // 2)


@pytest.mark.parametrize("port", [PlusOne, Normalised, Unit])
@pytest.mark.parametrize("batch", [1, 2])
def test_ports_of_the_layer_get_constant_weights(port: type[Port], batch: int) -> None:
    torch.manual_seed(0)
    view = assert_rewritten(exported(port(), batch, 17), picture(batch))
    assert not any(
        len(view.shape(node.output[0]) or ()) == 5 and view.per_sample(node.output[0]) > 64
        for node in view.nodes.values()
    )
