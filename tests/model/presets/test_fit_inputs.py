"""Described inputs against what a network takes: batch axes, sizes, types, and the advice where they do not fit."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.presets import FileInput, ImageOutput, Preset, ValueInput, parse_input
from trt_facefusion.model.presets.fit import cast, find_fixed_batch, fit_inputs, suggest_inputs
from trt_facefusion.model.presets.output import choose_picture_output, list_picture_outputs
from trt_facefusion.types import TensorSpec


class Values(FileInput):
    """Fixed values without a file."""

    def values(self) -> np.ndarray:
        return np.array(self.path)


def fitted(text: str, *shape: int | str, dtype: str = "float32") -> tuple[bool, tuple[int, ...]]:
    preset = Preset.from_inputs(
        [parse_input(text), *([] if "target=" in text else [parse_input("target=image:64:0:1")])]
    )
    takes = [TensorSpec(text.partition("=")[0], shape, dtype)]
    if len(preset.inputs) > 1:
        takes.append(TensorSpec("target", ("N", 3, 64, 64), "float32"))
    fit = fit_inputs(preset, takes, 128)[takes[0].name]
    return fit.batched, fit.shape


def test_a_batch_axis_is_found_by_the_rank() -> None:
    assert fitted("x=image:64:0:1", "N", 3, 64, 64) == (True, (3, 64, 64))
    assert fitted("x=image:64:0:1", 3, 64, 64) == (False, (3, 64, 64))
    assert fitted("x=image:64x32:0:1:nhwc", "N", "h", "w", 3) == (True, (64, 32, 3))
    assert fitted("x=embedding", 128) == (False, (128,))
    assert fitted("x=embedding", 1, 128) == (True, (128,))
    assert fitted("x=embedding", "N", 128, 1, 1) == (True, (128, 1, 1))
    assert fitted("x=embedding", "N", 1, "values") == (True, (1, 128))


@pytest.mark.parametrize(
    ("values", "shape", "fed"),
    [
        (np.float32(0.7), (), np.float32(0.7)),
        (np.float64(0.7), (1,), [0.7]),
        (np.float64(0.7), ("N",), [0.7, 0.7]),
        (np.zeros(1), ("N",), [0, 0]),
        (np.arange(3), (3,), [0, 1, 2]),
        (np.arange(3), ("N", 3), [[0, 1, 2]] * 2),
        (np.arange(3), (1, 3), [[0, 1, 2]]),
        (np.arange(3)[None], ("N", 3), [[0, 1, 2]] * 2),
        (np.arange(3)[None], (1, 3), [[0, 1, 2]]),
        (np.arange(3), ("length",), [0, 1, 2]),
        (np.ones((1, 1)), (1,), [1]),
    ],
)
def test_fixed_values_may_have_a_batch_axis_or_none(
    values: np.ndarray, shape: tuple[int | str, ...], fed: list
) -> None:
    spec = Values("v", values)  # type: ignore[arg-type]
    preset = Preset.from_inputs([spec, parse_input("target=image:64:0:1")])
    takes = [TensorSpec("v", shape, "float64"), TensorSpec("target", ("N", 3, 64, 64), "float32")]
    found = fit_inputs(preset, takes, 128)["v"].fixed(spec.values(), 2)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, fed)


def test_one_number_fills_the_input() -> None:
    preset = Preset.from_inputs([ValueInput("v", 2), parse_input("target=image:64:0:1")])
    takes = [TensorSpec("v", ("N", 2, 3), "int32"), TensorSpec("target", ("N", 3, 64, 64), "float32")]
    found = fit_inputs(preset, takes, 128)["v"].fixed(np.array(2), 4)
    assert (found.shape, found.dtype, found.min(), found.max()) == ((4, 2, 3), np.int32, 2, 2)


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "said"),
    [
        ("x=image:64:0:1", ("N", 64, 64, 3), "float32", r"'x' is described as an image \[3, 64, 64\], but is \[N, 64"),
        ("x=image:64:0:1", (3, "N", 64, 64), "float32", "its batch axis is not in front"),
        ("x=image:64:0:1", ("N", 3, 128, 128), "float32", r"but is \[N, 3, 128, 128\]"),
        ("x=image:64:0:1", ("N", 3, 64, 64), "bool", "but takes bool"),
        ("x=embedding", ("N", 512), "float32", "embedding of 128 values, but is .*embedder"),
        ("x=embedding", (128, "N"), "float32", "its batch axis is not in front"),
        ("x=embedding", ("N", 2, 128), "float32", "embedding of 128 values"),
        ("x=embedding", ("N", 128), "int32", "but takes int32"),
        ("x=value:0.5", (1,), "int64", "whole numbers"),
        ("x=value:300", (1,), "uint8", "cannot hold"),
        ("x=value:1", ("N", "k"), "float32", "sizes are not known"),
        ("x=image:64:0:1", ("N", 3, 64, 64), "uint8", "0 to 1: say 0:255"),
        ("x=image:64:-1:255", ("N", 3, 64, 64), "uint8", "-1 to 255: say 0:255"),
    ],
)
def test_what_does_not_fit_is_told_with_an_example(text: str, shape: tuple, dtype: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said) as error:
        fitted(text, *shape, dtype=dtype)
    assert "--input x=" in error.value.remedy and "--input target=image:64:0:1" in error.value.remedy


def test_the_advice_can_be_typed_as_it_is() -> None:
    takes = [
        TensorSpec("in face:0", ("N", 224, 224, 3), "float32"),
        TensorSpec("frame", (1, "h", "w", 3), "uint8"),
        TensorSpec("stacked", ("N", 6, 96, 96), "float32"),
        TensorSpec("grey", ("N", 1, 64, 32), "float16"),
        TensorSpec("id", (512,), "float32"),
        TensorSpec("weight", (1,), "float64"),
        TensorSpec("scale", (), "float32"),
        TensorSpec("flag", (1,), "bool"),
    ]
    words = shlex.split(suggest_inputs(takes))
    preset = Preset.from_inputs([parse_input(word) for word in words if word != "--input"])
    fits = fit_inputs(preset, takes, 512)
    assert {name: fit.batched for name, fit in fits.items()} == {
        "in face:0": True, "frame": True, "stacked": True, "grey": True,
        "id": False, "weight": False, "scale": False, "flag": False,
    }  # fmt: skip
    assert find_fixed_batch(preset, takes, fits) == 1


def test_inputs_that_insist_on_two_batch_sizes_are_refused() -> None:
    preset = Preset.from_inputs([parse_input("target=image:64:0:1"), parse_input("s=embedding")])
    takes = [TensorSpec("target", (4, 3, 64, 64), "float32"), TensorSpec("s", (128,), "float32")]
    with pytest.raises(BadInputError, match="target: 4, s: 1"):
        find_fixed_batch(preset, takes, fit_inputs(preset, takes, 128))


def test_several_faces_never_meet_an_input_without_a_batch_axis() -> None:
    preset = Preset.from_inputs([parse_input("target=image:64:0:1")])
    fit = fit_inputs(preset, [TensorSpec("target", (3, 64, 64), "float16")], 128)["target"]
    assert fit.samples(np.zeros((1, 3, 64, 64), np.float32)).shape == (3, 64, 64)
    with pytest.raises(BadInputError, match="one face at a time"):
        fit.samples(np.zeros((2, 3, 64, 64), np.float32))


@given(st.sampled_from(["uint8", "int8", "int32", "int64", "float16", "float64", "bool"]), st.floats(-70000, 70000))
def test_values_are_cast_where_they_fit_and_refused_where_not(dtype: str, value: float) -> None:
    values = np.array([value], np.float64)
    try:
        found = cast(values, dtype, "v")
    except BadInputError:
        kind = np.dtype(dtype)
        limits = (0, 1) if dtype == "bool" else np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
        low, high = limits if isinstance(limits, tuple) else (limits.min, limits.max)
        assert not low <= np.rint(value) <= high or not low <= value <= high
    else:
        assert found.dtype == dtype
        tolerance = 0.5 if np.dtype(dtype).kind in "iu" else 1 if dtype == "bool" else 1e-3 * abs(value) + 1e-7
        assert abs(float(found[0]) - value) <= tolerance


NCHW, NHWC = ("N", 3, 64, 64), ("N", 64, 64, 3)


def outputs(**shapes: tuple) -> list[TensorSpec]:
    return [TensorSpec(name, shape, "float32") for name, shape in shapes.items()]


def test_masks_are_kept_and_everything_else_is_left_out() -> None:
    found = outputs(code=("N", 512), out=NCHW, mask=("N", 1, 64, 64), small=("N", 1, 32, 32), also=("N", 64, 64, 1))
    found.append(TensorSpec("classes", ("N", 1, 64, 64), "int64"))
    assert list_picture_outputs(choose_picture_output(ImageOutput(), found), found) == ["out", "mask", "also"]


def test_several_pictures_need_a_word() -> None:
    found = outputs(half=("N", 3, 32, 32), whole=NCHW)
    with pytest.raises(BadInputError, match=r"half.*whole") as error:
        choose_picture_output(ImageOutput(), found)
    assert "--picture half or --picture whole" in error.value.remedy
    assert choose_picture_output(ImageOutput("whole"), found).name == "whole"
    assert choose_picture_output(ImageOutput(), found, first_is_right=True).name == "half"
    with pytest.raises(BadInputError, match="'other' is not an output"):
        choose_picture_output(ImageOutput("other"), found)
    with pytest.raises(ModelError, match="no output of the model is a picture"):
        choose_picture_output(ImageOutput(), outputs(code=("N", 512)))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("nhwc", [True, False])
def test_pictures_of_any_layout_and_type_are_decoded(dtype: str, batched: bool, nhwc: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 12, 16, 3), np.uint8)
    tensor = pixels if dtype == "uint8" else (pixels / 255).astype(dtype)
    tensor = tensor if nhwc else tensor.transpose(0, 3, 1, 2)
    tensor = tensor if batched else tensor[0]
    output = choose_picture_output(ImageOutput(), [TensorSpec("out", tensor.shape, dtype)])
    assert output.nhwc == nhwc
    np.testing.assert_allclose(output.decode(tensor), pixels / 255, atol=1e-3)
