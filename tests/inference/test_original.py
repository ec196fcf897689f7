"""What was handed in, once its weights were let go of: the same network, read from its file again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import Net, feeds

from trt_facefusion.inference.original import Original
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.types import Array

SHAPES = {"x": (3, 16, 16)}


def saved(folder: Path, linked: bool) -> Path:
    """A network with one weight of 288 KiB, in a file of its own behind a link where ``linked``."""
    net = Net()
    hidden = net.conv("x", 3, 64, name="hidden")
    wide = net.conv(hidden, 64, 128, name="wide")
    model = net.model({"x": ["N", 3, 16, 16]}, {wide: ["N", 128, 16, 16]})
    path = folder / "net.onnx"
    onnx.save_model(model, path, save_as_external_data=linked, location="net.bin", size_threshold=0)
    if linked:
        (folder / "net.bin").rename(folder / "real.bin")
        (folder / "net.bin").symlink_to("real.bin")
    return path


def outputs(original: Original, tapped: tuple[str, ...]) -> dict[str, Array]:
    with original.open_runner(tapped=tapped) as runner:
        return runner.infer(feeds(SHAPES))


@pytest.mark.parametrize("linked", [False, True])
def test_it_runs_as_before_without_its_weights(tmp_path: Path, linked: bool) -> None:
    source = OnnxSource(saved(tmp_path, linked))
    whole = Original(source, source.load({}))
    lean = whole.without_weights()
    assert lean.loaded.ByteSize() < whole.loaded.ByteSize() / 10
    assert lean.whole() == whole.loaded
    inner = whole.loaded.graph.node[0].output[0]
    for tapped in ((), (inner,)):
        before, after = outputs(whole, tapped), outputs(lean, tapped)
        assert before.keys() == after.keys() and len(after) == 1 + len(tapped)
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)
