"""SCRFD and RetinaFace files, shown by networks of the right outputs that say where faces are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import ModelError
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.swap.detectors import SIDE, OnnxDetector, open_detector

Floats = NDArray[np.float32]
POINTS = np.array([[250, 200], [310, 202], [280, 240], [255, 275], [305, 277]], np.float32)
BOX = np.array([230, 160, 330, 300], np.float32)


def save_constants(path: Path, outputs: list[Floats], side: int | str = "H") -> Path:
    """A network that gives ``outputs`` whatever it sees (it must be seen, so zero times its mean is added)."""
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, side, side])
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    nodes = [
        helper.make_node("ReduceMean", ["input.1"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    weights, gives = [zero], []
    for number, output in enumerate(outputs):
        weights.append(numpy_helper.from_array(output.astype(np.float32), f"w{number}"))
        nodes.append(helper.make_node("Add", [f"w{number}", "nothing"], [f"o{number}"]))
        gives.append(helper.make_tensor_value_info(f"o{number}", TensorProto.FLOAT, list(output.shape)))
    graph = helper.make_graph(nodes, "detector", [image], gives, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def scrfd(path: Path) -> Path:
    """One face, seen by two anchors of a cell at stride 16, and a weak one elsewhere."""
    scores, boxes, points = [], [], []
    for stride in (8, 16, 32):
        cells = (SIDE // stride) ** 2
        scores.append(np.zeros((2 * cells, 1), np.float32))
        boxes.append(np.zeros((2 * cells, 4), np.float32))
        points.append(np.zeros((2 * cells, 10), np.float32))
    column, row = 17, 14
    centre = np.array([column, row]) * 16
    for anchor in (0, 1):
        place = 2 * (row * (SIDE // 16) + column) + anchor
        scores[1][place] = 0.9 - 0.1 * anchor
        boxes[1][place] = np.concatenate([centre - BOX[:2], BOX[2:] - centre]) / 16
        points[1][place] = (POINTS - centre).ravel() / 16
    scores[0][5] = 0.4
    return save_constants(path, [*scores, *boxes, *points])


def retina(path: Path) -> Path:
    """The same face by the prior nearest to it."""
    priors = []
    for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for row in range(SIDE // stride):
            for column in range(SIDE // stride):
                priors += [((column + 0.5) * stride, (row + 0.5) * stride, side) for side in sides]
    grid = np.array(priors, np.float32)
    centre, size = (BOX[:2] + BOX[2:]) / 2, BOX[2:] - BOX[:2]
    place = int((np.abs(grid[:, :2] - centre).sum(1) + np.abs(grid[:, 2] - 128)).argmin())
    boxes, classes, points = (np.zeros((1, len(grid), count), np.float32) for count in (4, 2, 10))
    classes[..., 0] = 1
    classes[0, place] = (0.02, 0.98)
    side = grid[place, 2]
    boxes[0, place] = np.concatenate([(centre - grid[place, :2]) / (0.1 * side), np.log(size / side) / 0.2])
    points[0, place] = ((POINTS - grid[place, :2]) / (0.1 * side)).ravel()
    return save_constants(path, [boxes, classes, points])


@pytest.mark.parametrize("make", [scrfd, retina])
@pytest.mark.parametrize(("height", "width"), [(640, 640), (360, 640), (1280, 960)])
def test_a_face_is_where_the_network_says(make: object, height: int, width: int, tmp_path: Path) -> None:
    detector = open_detector(make(tmp_path / "detector.onnx"))  # type: ignore[operator]
    (face,) = detector.detect(np.zeros((height, width, 3), np.uint8))
    zoom = max(height, width) / SIDE
    assert np.abs(face.landmarks - POINTS * zoom).max() < 0.01 * zoom
    assert np.abs(np.array(face.box) - np.concatenate([BOX[:2], BOX[2:] - BOX[:2]]) * zoom).max() < 0.01 * zoom
    assert face.score > 0.89 and len(detector.digest) == 64


def test_without_a_file_it_is_yunet() -> None:
    assert isinstance(open_detector(None), FaceDetector)


@pytest.mark.parametrize(
    "outputs",
    [
        [np.zeros((1, 4))],
        [np.zeros((1, 16800, 4)), np.zeros((1, 16800, 2)), np.zeros((1, 16799, 10))],
        [np.zeros((10, 1))] * 3 + [np.zeros((10, 4))] * 3 + [np.zeros((10, 10))] * 3,
    ],
)
def test_what_is_no_detector_is_refused(outputs: list[Floats], tmp_path: Path) -> None:
    path = save_constants(tmp_path / "net.onnx", outputs)
    with pytest.raises(ModelError, match=r"net\.onnx is no SCRFD or RetinaFace detector"):
        OnnxDetector(path)


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        open_detector(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError):
        open_detector(tmp_path / "bad.onnx")
