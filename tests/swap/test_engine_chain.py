"""A broken picture is never shown: the next safer engine of the same model makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny import Settings

from trt_facefusion.build.run import build
from trt_facefusion.errors import BadInputError, GateError
from trt_facefusion.swap.engines import EngineChain, LoadedEngine, find_fault
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.types import Precision

CROP = ("arcface_128", tiny.SIZE)


@pytest.fixture(scope="module")
def store(module_settings: Settings) -> Path:
    """The folder of the tiny model with an engine of each precision."""
    build(module_settings(Precision.INT8, Precision.FP16, Precision.FP32))
    (folder,) = [path for path in module_settings().output.iterdir() if path.is_dir()]
    return folder


def crops(count: int) -> list[FaceInput]:
    """Faces with as little contrast as an untrained network gives."""
    pictures = [(tiny.picture(seed, tiny.SIZE) // 8 + 100).astype(np.uint8) for seed in range(count)]
    return [FaceInput({CROP: picture}, None) for picture in pictures]


def break_engines(monkeypatch: pytest.MonkeyPatch, bad: Any, *precisions: str) -> None:
    """Let engines of ``precisions`` give ``bad`` for every second face."""
    render = LoadedEngine._render_batch

    def broken(self: LoadedEngine, faces: Any) -> Any:
        rendered = render(self, faces)
        if self.opened.manifest is not None and self.opened.manifest.precision in precisions:
            for result in rendered[::2]:
                result.picture[:] = bad(result.picture)
        return rendered

    monkeypatch.setattr(LoadedEngine, "_render_batch", broken)


def flatten(picture: Any) -> Any:
    return picture * 0.01 + 0.3


@pytest.mark.parametrize("bad", [lambda picture: np.nan, lambda picture: np.inf, flatten])
def test_the_next_precision_takes_over_and_it_is_said(store: Path, monkeypatch: pytest.MonkeyPatch, bad: Any) -> None:
    right = EngineChain(store, Precision.FP32).render(crops(3))
    break_engines(monkeypatch, bad, "int8", "fp16")
    notes: list[str] = []
    chain = EngineChain(store, Precision.INT8, note=notes.append)
    rendered = chain.render(crops(3), lambda number: f"face {number}")
    assert all(find_fault(r.picture, c.crops[CROP]) is None for r, c in zip(rendered, crops(3), strict=True))
    assert sum(chain.fallbacks.values()) >= 1 and any("fp32" in label for label in chain.fallbacks)
    assert any("face 0" in note and "int8" in note for note in notes)
    assert np.allclose(rendered[0].picture, right[0].picture, atol=1e-5)
    chain.close()


def test_where_all_engines_are_broken_nothing_is_shown(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_engines(monkeypatch, lambda picture: np.nan, "int8", "fp16", "fp32")
    with pytest.raises(GateError, match="whichever engine") as caught:
        EngineChain(store, Precision.INT8).render(crops(1))
    assert caught.value.exit_code == 3


def test_an_engine_alone_says_what_to_build(store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import shutil

    (int8,) = [path for path in store.iterdir() if path.name.startswith("int8")]
    alone = shutil.copytree(int8, tmp_path / "engines" / "tiny" / int8.name)
    break_engines(monkeypatch, lambda picture: np.nan, "int8")
    with pytest.raises(GateError) as caught:
        EngineChain(alone).render(crops(1))
    assert "--fp32" in caught.value.remedy and "trt-ff build" in caught.value.remedy


def test_faces_in_one_batch_get_the_picture_that_they_get_alone(store: Path) -> None:
    chain = EngineChain(store, Precision.FP32)
    together = chain.render(crops(5))
    alone = [chain.render([crop])[0] for crop in crops(5)]
    assert all(np.allclose(a.picture, b.picture, atol=1e-5) for a, b in zip(together, alone, strict=True))
    assert chain.render([]) == []


def test_a_bare_file_must_be_described(model: Path) -> None:
    with pytest.raises(BadInputError, match="nothing says how"):
        EngineChain(model)


def test_a_picture_as_rich_as_its_target_has_no_fault() -> None:
    target = tiny.picture(1, 64)
    assert find_fault(target.astype(np.float32) / 255, target) is None
    assert find_fault(np.full((64, 64, 3), 0.5, np.float32), np.full((64, 64, 3), 128, np.uint8)) is not None
    pale = target.astype(np.float32) / 255 * 0.2 + 0.3
    assert find_fault(pale, target) is not None and find_fault(pale, target, reduced=False) is None
