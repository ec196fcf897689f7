"""Swappers, and pictures with the project's own faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pixelwise import IMAGE, save_pixelwise

from trt_facefusion.faces.decode import read_image
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.swap.swapper import Swapper

Picture = NDArray[np.uint8]


@pytest.fixture(scope="session")
def face(sample_faces: Path) -> Picture:
    """A sample face [256,256,3]."""
    return read_image(sorted(sample_faces.glob("*.jpg"))[33])


@pytest.fixture(scope="session")
def other_face(sample_faces: Path) -> Picture:
    """Another one."""
    return read_image(sorted(sample_faces.glob("*.jpg"))[47])


@pytest.fixture(scope="session")
def scene(face: Picture, other_face: Picture) -> Picture:
    """Two faces, the first the larger one, on a coloured ground [360,640,3]."""
    across, down = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 360))
    ground = np.stack([across, down, 255 - across], axis=2).astype(np.uint8)
    ground[52:308, 40:296] = face
    ground[90:270, 400:580] = cv2.resize(other_face, (180, 180), interpolation=cv2.INTER_AREA)
    return ground


@pytest.fixture(scope="session")
def inverting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixelwise(tmp_path_factory.mktemp("nets") / "inverting.onnx", "Sub")


@pytest.fixture(scope="session")
def unchanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixelwise(tmp_path_factory.mktemp("nets") / "unchanging.onnx")


@pytest.fixture
def make_swapper() -> Iterator[Callable[..., Swapper]]:
    """Opens a swapper of a network that takes one image."""
    opened: list[Swapper] = []

    def make(onnx_file: Path, *inputs: str, picture: str | None = None, **options: object) -> Swapper:
        preset = Preset.from_inputs([parse_input(text) for text in inputs or (IMAGE,)], picture)
        opened.append(Swapper(onnx_file, contract=Contract(preset), **options))
        return opened[-1]

    yield make
    for swapper in opened:
        swapper.close()
