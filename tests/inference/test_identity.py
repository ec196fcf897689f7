"""The source's identity: what an embedder gives, through a converter or a matrix of the file, to what is fed."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.faces.converter import EmbeddingConverter
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.inference.identity import encode_identity, find_projection
from trt_facefusion.model.presets import EmbeddingInput, ImageInput, ImageOutput, Preset

RNG = np.random.default_rng(5)
RAW = RNG.normal(0, 3, (2, 128)).astype(np.float32)


def described(embedding: EmbeddingInput) -> Preset:
    return Preset("toy", (ImageInput("target", 128), embedding), ImageOutput())


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_matrix_is_multiplied_from_the_right_and_the_product_is_normalised_again() -> None:
    emap = RNG.normal(size=(128, 128)).astype(np.float32)
    latent = encode_identity(EmbeddingInput("source", projection="buff2fs"), RAW, tiny.Glance(), emap)
    np.testing.assert_allclose(latent, unit(unit(RAW) @ emap), atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_converter_takes_raw_vectors_and_gives_those_that_are_fed(tmp_path: Path, normalise: bool) -> None:
    path = nets.save_converter(tmp_path / "crossface.onnx", 128, 96)
    spec = EmbeddingInput("source", normalise, converter="crossface")
    embedder = tiny.Glance(EmbeddingConverter(path))
    weight = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    converted = unit(RAW) @ weight.T
    fed = encode_identity(spec, RAW, embedder)
    np.testing.assert_allclose(fed, unit(converted) if normalise else converted, rtol=1e-4, atol=1e-5)
    assert fed.shape == (2, embedder.fed_dim) and fed.dtype == np.float32


def test_a_converter_that_is_missing_or_too_much_is_told(tmp_path: Path) -> None:
    converter = nets.save_converter(tmp_path / "crossface.onnx", 512, 512)
    with pytest.raises(BadInputError, match="crossface_ghost makes of ArcFace's") as error:
        open_embedder(described(EmbeddingInput("source", converter="crossface_ghost")), None)
    assert "--converter" in error.value.remedy
    with pytest.raises(BadInputError, match="takes no converted embeddings"):
        open_embedder(described(EmbeddingInput("source")), None, converter)
    with pytest.raises(BadInputError, match="vectors of 512 values, and those of dlib have 128"):
        open_embedder(described(EmbeddingInput("source", converter="crossface_ghost")), None, converter)


def test_a_file_that_is_no_converter_is_refused(tmp_path: Path) -> None:
    onnx.save(nets.swapper(), tmp_path / "swapper.onnx")
    with pytest.raises(ModelError, match="its inputs are target"):
        EmbeddingConverter(tmp_path / "swapper.onnx")


def with_constants(*named: tuple[str, int, type], read: str = "") -> onnx.ModelProto:
    """A graph whose initializers are square matrices, one of which may be read by a node."""
    nodes = [helper.make_node("MatMul", ["x", read], ["y"])] if read else [helper.make_node("Identity", ["x"], ["y"])]
    tensors = [numpy_helper.from_array(np.full((n, n), i, kind), name) for i, (name, n, kind) in enumerate(named)]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512]) for name in ("x", "y")]
    return helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], tensors))


PRESET = described(EmbeddingInput("source", projection="buff2fs"))


def test_the_matrix_is_found_by_its_name_wherever_it_stands() -> None:
    model = with_constants(
        ("buff2fs", 512, np.float16), ("other", 512, np.float32), ("_ln_scale_32x32", 32, np.float32)
    )
    emap = find_projection(PRESET, model)
    assert emap is not None and emap.dtype == np.float32 and emap[0, 0] == 0


def test_the_matrix_is_found_by_its_shape_where_its_name_was_changed() -> None:
    named = (("weight", 512, np.float32), ("4711", 512, np.float32), ("_ln_scale_32x32", 32, np.float32))
    emap = find_projection(PRESET, with_constants(*named, read="weight"))
    assert emap is not None and emap[0, 0] == 1
    with pytest.raises(ModelError, match="weight, 4711"):
        find_projection(PRESET, with_constants(*named))
    with pytest.raises(ModelError, match="not in the file"):
        find_projection(PRESET, with_constants(*named[2:]))
