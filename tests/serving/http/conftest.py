"""A service of a network that inverts colours: what comes of a photo is known to the pixel, in any batch."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tiny
from pixelwise import IMAGE, save_pixelwise
from running import Running, Setting, run_service

from trt_facefusion.inference import embedders as embedders_module
from trt_facefusion.serving.logs import LOGGER


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """The service's log as pytest sees it, whatever a command made of it."""
    handlers, LOGGER.handlers, LOGGER.propagate = LOGGER.handlers, [], True
    yield
    LOGGER.handlers = handlers


@pytest.fixture(scope="session")
def photos(sample_faces: Path) -> list[bytes]:
    """Sixteen sample faces as PNGs, so that nothing is lost in them."""
    encoded = []
    for path in sorted(sample_faces.glob("*.jpg"))[33:49]:
        buffer = io.BytesIO()
        PIL.Image.open(path).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


@pytest.fixture(scope="session")
def inverting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    net = save_pixelwise(tmp_path_factory.mktemp("served") / "inverting.onnx", "Sub")
    return Setting(net, (IMAGE,))


@pytest.fixture(scope="session")
def _plain(inverting: Setting) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        with run_service(inverting) as running:
            yield running


@pytest.fixture
def plain(_plain: Running) -> Running:
    """A service with the usual limits, shared by tests."""
    _plain.engines.batches.clear()
    _plain.engines.requests.clear()
    _plain.engines.gate.set()
    _plain.engines.fail = None
    return _plain


@pytest.fixture
def start(inverting: Setting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Starts a service that differs from the usual one in what is named."""
    monkeypatch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
    with ExitStack() as stack:

        def launch(**changes: Any) -> Running:
            return stack.enter_context(run_service(replace(inverting, **changes)))

        yield launch
