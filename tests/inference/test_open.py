"""What a path names: an engine, or an ONNX file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import Settings
from trt_facefusion.build.run import build

from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.inference.open import open_model
from trt_facefusion.types import Precision


def test_an_engine_is_found_by_its_folder_its_file_and_its_graph(settings: Settings) -> None:
    plain = settings(Precision.FP16)
    folder = build(plain).engines[0].folder
    for path in (folder, folder / "engine.onnx"):
        found = open_model(path)
        assert found.manifest is not None and found.manifest.precision == "fp16"
        named = replace(plain.preset, output=replace(plain.preset.output, name="picture"))
        assert found.contract is not None and found.contract.preset == named
    graph = open_model(folder / "typed.onnx")
    assert graph.manifest is None and graph.contract == found.contract


def test_an_engine_and_its_graph_give_the_same_picture(settings: Settings) -> None:
    folder = build(settings(Precision.FP32)).engines[0].folder
    pictures = []
    for path in (folder, folder / "typed.onnx"):
        with open_model(path).open() as runner:
            shape = tuple(axis if isinstance(axis, int) else 1 for axis in runner.inputs[0].shape)
            pictures.append(runner.infer({runner.inputs[0].name: np.full(shape, 0.5, np.float32)}))
    for name, picture in pictures[0].items():
        assert np.array_equal(picture, pictures[1][name])


def test_a_path_that_names_nothing_that_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no engine")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(BadInputError, match="cannot be run"):
            open_model(path)


def test_a_changed_engine_is_refused(settings: Settings) -> None:
    folder = build(settings(Precision.FP32)).engines[0].folder
    engine = folder / "engine.onnx"
    data = bytearray(engine.read_bytes())
    data[-9] ^= 1
    engine.write_bytes(data)
    with pytest.raises(StoreError, match="not what was stored"):
        open_model(folder)
