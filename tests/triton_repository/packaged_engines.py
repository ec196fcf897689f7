"""Small engines to package: what onnxruntime built, and the same as if TensorRT had built it for a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tiny

from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.backends.pins import Pins, parse_target
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import Store
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.types import BatchRange, Precision

SIDE = 64
BATCHES = BatchRange(1, 4, 8)
INPUTS = (f"image=image:{SIDE}:0:1", "identity=embedding")


def build_engine(
    folder: Path,
    faces: Path,
    *,
    seed: int = 0,
    batch: BatchRange = BATCHES,
    fixed: bool = False,
    embedding: int | None = 128,
) -> Path:
    """The folder of an FP32 engine for onnxruntime; ``fixed``: its graph takes one face at a time."""
    model = tiny.generator(size=SIDE, embedding=embedding, seed=seed, batch=1 if fixed else "N")
    settings = BuildSettings(
        source=OnnxSource(tiny.save(model, folder / f"swap{seed}.onnx")),
        preset=Preset.from_inputs([parse_input(text) for text in (INPUTS if embedding else INPUTS[:1])]),
        precisions=(Precision.FP32,),
        calib=faces,
        aligned=True,
        backend="onnxruntime",
        batch=batch,
        output=folder / "engines",
        cache=folder / "cache",
    )
    (result,) = build(settings).engines
    return result.folder


def pretend_tensorrt(engine: Path, root: Path, target: str, **pins: object) -> Path:
    """``engine`` as TensorRT 10.13.3.9 would have stored it for ``target``; its plan is the ONNX."""
    stored = Store(engine.parent.parent)
    manifest = stored.load(engine)
    files = {name: (engine / name).read_bytes() for name in manifest.files}
    files["engine.engine"] = files.pop(next(name for name in files if name.startswith("engine.")))
    version = str(pins.pop("backend_version", "10.13.3.9"))
    chosen = Pins(parse_target(target), "a GPU", 13000, "linux-x86_64", **pins)
    changed: Manifest = dataclasses.replace(
        manifest, backend="tensorrt", backend_version=version, target=target, pins=chosen
    )
    return Store(root).save(changed, files)
