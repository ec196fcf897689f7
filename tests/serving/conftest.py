"""Engines of a tiny model in every precision, and pools of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from tricks import QUICK, Saboteur

from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.inference import embedders as embedders_module
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.serving.engines.pool import EnginePool
from trt_facefusion.serving.engines.pooled import PoolSettings
from trt_facefusion.swap.engines import ChainOptions
from trt_facefusion.types import Precision


@pytest.fixture(autouse=True)
def _no_dlib(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the tests beside this file, not in the folders below."""
    if request.path.parent == Path(__file__).parent:
        monkeypatch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, faces: Path, model: Path) -> Path:
    """The folder of the tiny model with an engine of each precision, which no test changes."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        build(
            BuildSettings(
                source=OnnxSource(model),
                preset=Preset.from_inputs([parse_input(f"image=image:{tiny.SIZE}:0:1")]),
                precisions=tuple(Precision),
                calib=faces,
                aligned=True,
                backend="onnxruntime",
                rule="max",
                planner="rules",
                output=folder / "engines",
                cache=folder / "cache",
            )
        )
    (path,) = [path for path in (folder / "engines").iterdir() if path.is_dir() and not path.name.startswith(".")]
    return path


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return shutil.copytree(built, tmp_path / "engines" / built.name)


@pytest.fixture
def open_pool() -> Iterator[Callable[..., EnginePool]]:
    """Opens pools that try again soon; keeps their ``events``."""
    opened: list[EnginePool] = []

    def make(*paths: Path, infer_limit_s: float | None = None, **options: Any) -> EnginePool:
        settings = PoolSettings(ChainOptions(threads=1), QUICK, infer_limit_s=infer_limit_s, file_check_s=0.2)
        opened.append(EnginePool(paths, settings=settings, **options))
        return opened[-1]

    yield make
    for pool in opened:
        pool.close()


@pytest.fixture
def saboteur(monkeypatch: pytest.MonkeyPatch) -> Iterator[Saboteur]:
    trickster = Saboteur(monkeypatch)
    yield trickster
    trickster.released.set()
