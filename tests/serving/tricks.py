"""Faces for the tiny engines, and runners that misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from onnx import numpy_helper

from trt_facefusion.serving.engines.health import HealthRules
from trt_facefusion.swap.engines import LoadedEngine
from trt_facefusion.swap.feeds import FaceInput

CROP = ("arcface_128", tiny.SIZE)
QUICK = HealthRules(window=20, least=5, first_retry_s=0.2, longest_retry_s=1.0)


class Saboteur:
    """Lets the inferences of engines go wrong, by precision, until it is told to stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tricks: dict[str, Callable[[list[Any]], Any]] = {}
        self.released = threading.Event()
        infer = LoadedEngine.infer

        def sabotaged(engine: LoadedEngine, feeds: Any, count: int) -> Any:
            rendered = infer(engine, feeds, count)
            manifest = engine.opened.manifest
            trick = self.tricks.get(manifest.precision if manifest is not None else "onnx")
            if trick is not None:
                trick(rendered)
            return rendered

        monkeypatch.setattr(LoadedEngine, "infer", sabotaged)

    def hang(self, rendered: list[Any]) -> None:
        self.released.wait(60)

    @staticmethod
    def fail(rendered: list[Any]) -> None:
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")

    @staticmethod
    def give_nan(rendered: list[Any]) -> None:
        for result in rendered:
            result.picture[:] = np.nan

    @staticmethod
    def give_flat(rendered: list[Any]) -> None:
        for result in rendered:
            result.picture[:] = 0.5


def spoil_scales(folder: Path, factor: float) -> None:
    """Let the INT8 engine in ``folder`` quantise activations by scales that are ``factor`` times as large."""
    (path,) = folder.glob("engine.*")
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    quantisers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    scales = {node.input[1] for node in quantisers}
    assert scales <= weights.keys() and scales
    for name in scales:
        tensor = weights[name]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    write_engine_file(folder, path.name, model.SerializeToString())


def write_engine_file(folder: Path, name: str, content: bytes) -> None:
    """Put ``content`` into an engine's folder as if it had been built so."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def make_faces(count: int, first: int = 0) -> list[FaceInput]:
    """Faces with as little contrast as an untrained network gives."""
    pictures = [(tiny.picture(seed, tiny.SIZE) // 8 + 100).astype(np.uint8) for seed in range(first, first + count)]
    return [FaceInput({CROP: picture}, None) for picture in pictures]


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Fail unless ``condition`` holds within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.02)
