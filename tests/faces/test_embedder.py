from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from trt_facefusion.errors import ModelError
from trt_facefusion.faces.align import align_crop
from trt_facefusion.faces.decode import read_image
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.embedder import ArcFaceEmbedder, DlibEmbedder, Embedder, normalise_embeddings


def mean_colour_model(path: Path, shape: list[object], rank: int = 2) -> Path:
    """An ONNX whose embedding is the mean of each channel."""
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["pooled"])]
    nodes += [helper.make_node("Flatten", ["pooled"], ["embedding"])] if rank == 2 else []
    name = "embedding" if rank == 2 else "pooled"
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def random_chips(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_batches_do_not_change_an_embedding() -> None:
    embedder = DlibEmbedder()
    chips = random_chips(17, 150)
    together = embedder.embed(chips)
    assert together.shape == (17, embedder.dim)
    assert together[16] == pytest.approx(embedder.embed(chips[16:])[0], abs=1e-5)
    assert embedder.embed(chips[:0]).shape == (0, 128)


def test_chips_of_the_wrong_size_or_type_are_refused() -> None:
    with pytest.raises(ValueError, match="150,150"):
        DlibEmbedder().embed(random_chips(1, 112))
    with pytest.raises(ValueError, match="float64"):
        DlibEmbedder().embed(random_chips(1, 150) / 255)


def test_unit_vectors_have_length_one_and_zero_stays_zero() -> None:
    vectors = normalise_embeddings(np.array([[3, 4], [0, 0]], np.float32))
    assert vectors.tolist() == pytest.approx(np.array([[0.6, 0.8], [0, 0]]))


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_arcface_feeds_rgb_scaled_to_one_at_any_batch(tmp_path: Path, batch: int | str) -> None:
    embedder = ArcFaceEmbedder(mean_colour_model(tmp_path / "own.onnx", [batch, 3, 112, 112]))
    chips = np.zeros((5, 112, 112, 3), np.uint8)
    chips[..., 0] = 255
    chips[4, ..., 2] = 255
    assert embedder.dim == 3
    assert embedder.embed(chips)[[0, 4]] == pytest.approx(np.array([[1, -1, -1], [1, -1, 1]]))
    assert embedder.name.startswith("own-")


@pytest.mark.parametrize("shape", [["N", 3, 128, 128], ["N", 112, 112, 3], ["N", 3]])
def test_another_input_is_a_clear_error(tmp_path: Path, shape: list[object]) -> None:
    path = tmp_path / "other.onnx"
    if len(shape) == 4:
        mean_colour_model(path, shape)
    else:
        node = helper.make_node("Relu", ["image"], ["y"])
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "y")]
        graph = helper.make_graph([node], "relu", info[:1], info[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError, match=r"other\.onnx is not an ArcFace network.*\[N,3,112,112\]"):
        ArcFaceEmbedder(path)


def test_another_output_or_no_model_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="first output"):
        ArcFaceEmbedder(mean_colour_model(tmp_path / "flat.onnx", ["N", 3, 112, 112], rank=4))
    with pytest.raises(ModelError, match="does not exist"):
        ArcFaceEmbedder(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelError, match="cannot be opened"):
        ArcFaceEmbedder(tmp_path / "text.onnx")


def arcface(shared_models: Path) -> Embedder:
    return ArcFaceEmbedder(shared_models / "embedder" / "mobilefacenet_192_npm_expo.onnx")


@pytest.mark.parametrize("kind", ["dlib", "arcface"])
def test_one_person_is_near_and_others_are_far(shared_faces: Path, shared_models: Path, kind: str) -> None:
    embedder = DlibEmbedder() if kind == "dlib" else arcface(shared_models)
    detector = FaceDetector()
    photos = [read_image(path) for path in sorted((shared_faces / "eval").glob("*.jpg"))[:6]]
    photos += [np.ascontiguousarray(photo[:, ::-1]) for photo in photos]  # a mirror image is another photo of a person
    chips = [align_crop(p, detector.detect(p)[0].landmarks, embedder.template, embedder.size) for p in photos]
    vectors = embedder.make_comparable(embedder.embed(np.stack(chips)))
    distance = np.linalg.norm(vectors[:6, None] - vectors[None, 6:], axis=2)
    assert distance.diagonal().max() < embedder.same_person
    assert np.median(distance[~np.eye(6, dtype=bool)]) > embedder.other_person
