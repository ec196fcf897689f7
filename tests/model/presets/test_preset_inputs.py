from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.presets import (
    PRESETS,
    EmbeddingInput,
    FileInput,
    ImageInput,
    ImageOutput,
    Preset,
    get_preset,
    parse_input,
)

RED = np.array([[[[255, 0, 51]]]], np.uint8)


@given(st.integers(16, 4096), st.integers(-1000, 999), st.integers(1, 1000), st.booleans())
def test_image_inputs_map_black_and_white_to_their_range(size: int, low: int, span: int, bgr: bool) -> None:
    high = low + span
    spec = parse_input(f"input=image:{size}:{low}:{high}{':bgr' if bgr else ''}")
    assert isinstance(spec, ImageInput)
    assert (spec.name, spec.size, spec.bgr) == ("input", size, bgr)
    assert spec.limits == pytest.approx((low, high), abs=1e-6 * 1000)
    assert spec.encode(np.full((1, 1, 1, 3), 255, np.uint8)).ravel() == pytest.approx([high] * 3, abs=1e-3)


@pytest.mark.parametrize("name", ["input", "serving_default_x:0", "a=b", "/net/in.1", "ein bild"])
def test_names_may_hold_colons_and_equals_signs(name: str) -> None:
    assert parse_input(f"{name}=embedding") == EmbeddingInput(name)
    assert parse_input(f"{name}=image:64:0:1") == replace(ImageInput.with_range(name, 64, 0, 1), person="")
    assert parse_input(f"{name}=file:/some:odd/a=b.npy") == FileInput(name, Path("/some:odd/a=b.npy"))


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "x=y",
        "=embedding",
        "x=embedding:512",
        "x=file:",
        "x=file",
        "x=image",
        "x=image:64",
        "x=image:64:0",
        "x=image:64:0:1:rgb:bgr",
        "x=image:64:0:1:bgr:2",
        "x=image:64.5:0:1",
        "x=image:8:0:1",
        "x=image:9999:0:1",
        "x=image:64:1:0",
        "x=image:64:0:0",
        "x=image:64:nan:1",
        "x=image:64:0:inf",
        "x=image:64:0:5e-324",
        "x=image:64:-1e308:1e308",
    ],
)
def test_everything_else_is_refused_with_the_syntax(text: str) -> None:
    with pytest.raises(BadInputError) as error:
        parse_input(text)
    assert "NAME=image:SIZE:MIN:MAX" in error.value.remedy


@given(
    st.sampled_from([*PRESETS.values()]),
    st.booleans(),
    st.lists(st.integers(0, 255), min_size=12, max_size=12),
)
def test_what_encode_makes_decode_undoes(preset: Preset, bgr: bool, values: list[int]) -> None:
    crops = np.array(values, np.uint8).reshape(1, 2, 2, 3)
    image = preset.image
    image = ImageInput(image.name, image.size, image.mean, image.std, bgr)
    tensor = image.encode(crops)
    assert tensor.shape == (1, 3, 2, 2)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert np.abs(ImageOutput.like(image).decode(tensor) - crops / 255).max() < 1 / 255


def test_bgr_swaps_channels_after_each_got_its_own_mean_and_std() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    expected = [(1 - 0.1) / 0.5, (0 - 0.2) / 0.25, (0.2 - 0.3) / 2.0]
    assert ImageInput("x", 16, mean, std).encode(RED).ravel() == pytest.approx(expected, abs=1e-6)
    assert ImageInput("x", 16, mean, std, bgr=True).encode(RED).ravel() == pytest.approx(expected[::-1], abs=1e-6)


def test_decode_neither_clips_nor_hides_nan() -> None:
    tensor = np.array([np.nan, 3.0, -1.0], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_array_equal(ImageOutput().decode(tensor).ravel(), tensor.ravel())


def test_embeddings_are_normalised_unless_told_otherwise() -> None:
    raw = np.random.default_rng(0).normal(3, 5, (4, 16)).astype(np.float32)
    encoded = EmbeddingInput("s").encode(raw)
    np.testing.assert_allclose(np.linalg.norm(encoded, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(EmbeddingInput("s", normalise=False).encode(raw), raw)


def test_projected_embeddings_are_normalised_before_and_after() -> None:
    rng = np.random.default_rng(0)
    raw, emap = rng.normal(3, 5, (4, 16)).astype(np.float32), rng.normal(0, 2, (16, 16)).astype(np.float32)
    wanted = raw / np.linalg.norm(raw, axis=1, keepdims=True) @ emap
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(EmbeddingInput("s", projection="emap").encode(raw, emap), wanted, atol=1e-6)


@pytest.mark.parametrize("projection", [None, np.eye(8, dtype=np.float32)])
def test_a_missing_or_wrong_projection_is_an_error(projection: np.ndarray | None) -> None:
    with pytest.raises(ModelError, match="emap"):
        EmbeddingInput("s", projection="emap").encode(np.ones((1, 16), np.float32), projection)


def test_file_inputs_give_the_array(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(FileInput("v", tmp_path / "v.npy").values(), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "content",
    [
        np.array([1.0, np.nan]),
        np.array([1.0, np.inf]),
        np.array([{"a": 1}], object),
        np.array(["text"]),
        np.array(["2020-01-01"], "datetime64[D]"),
        b"",
        b"garbage",
        b"\x93NUMPY\x01\x00",
        None,
    ],
    ids=["nan", "inf", "pickle", "text", "dates", "empty", "garbage", "truncated", "missing"],
)
def test_bad_files_are_refused(tmp_path: Path, content: np.ndarray | bytes | None) -> None:
    path = tmp_path / "v.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(BadInputError, match=r"v\.npy"):
        FileInput("v", path).values()


def test_archives_of_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.ones(2))
    with pytest.raises(BadInputError, match="one array"):
        FileInput("v", tmp_path / "v.npz").values()


def test_a_custom_preset_takes_the_output_to_be_like_the_image() -> None:
    preset = Preset.from_inputs([parse_input("s=embedding"), parse_input("t=image:64:-1:1:bgr")])
    assert preset.embedding == EmbeddingInput("s")
    assert preset.image.name == "t"
    assert (preset.output.mean, preset.output.std, preset.output.bgr) == ((0.5,) * 3, (0.5,) * 3, True)


def test_a_preset_needs_an_image_and_each_input_once() -> None:
    with pytest.raises(BadInputError, match="image"):
        Preset.from_inputs([EmbeddingInput("s")])
    with pytest.raises(BadInputError, match="twice"):
        Preset.from_inputs([parse_input("x=image:64:0:1"), EmbeddingInput("x")])
    with pytest.raises(BadInputError, match="no preset"):
        get_preset("inswapper")
