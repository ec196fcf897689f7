"""A package ``lpips`` and a backbone with random weights, for tests where the real ones are not at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class AlexNet(torch.nn.Module):
    """torchvision's, as far as LPIPS looks."""

    def __init__(self) -> None:
        super().__init__()
        conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
        self.features = torch.nn.Sequential(
            *(conv(3, 64, 11, 4, 2), relu(), pool(3, 2), conv(64, 192, 5, padding=2), relu(), pool(3, 2)),
            *(conv(192, 384, 3, padding=1), relu(), conv(384, 256, 3, padding=1), relu()),
            *(conv(256, 256, 3, padding=1), relu(), pool(3, 2)),
        )


def make_package(folder: Path, name: str, weights: str, tensors: Mapping[str, Any]) -> None:
    """A package with weights in torch's older format; importing it is an error."""
    path = folder / name / weights
    path.parent.mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise ImportError('nothing of it may run')\n")
    torch.save(OrderedDict(tensors), path, _use_new_zipfile_serialization=False)


def make_lpips(folder: Path) -> Path:
    """The package ``lpips`` in ``folder``, and beside it a backbone, whose path is given."""
    torch.manual_seed(0)
    lins = {f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1) for n, c in enumerate((64, 192, 384, 256, 256))}
    make_package(folder, "lpips", "weights/v0.1/alex.pth", lins)
    torch.save(AlexNet().state_dict(), folder / "alexnet.pth")
    return folder / "alexnet.pth"
