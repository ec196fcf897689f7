"""A known generator's description is bound to a file: by names, by a shape that leaves no choice, never by place."""

from __future__ import annotations

import pytest

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets import EmbeddingInput, ImageInput, get_preset
from trt_facefusion.model.presets.binding import bind_preset, is_open
from trt_facefusion.model.presets.fit import fit_inputs
from trt_facefusion.types import TensorSpec


def tensor(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, dtype)


def names(preset_name: str, *takes: TensorSpec) -> list[str]:
    bound = bind_preset(get_preset(preset_name), takes)
    assert not is_open(bound)
    fit_inputs(bound, takes, 512)
    return [spec.name for spec in bound.inputs]


SIMSWAP = tensor("input", 1, 3, 512, 512), tensor("onnx::Gemm_1", 1, 512)


def test_inputs_are_bound_by_their_names_in_any_order() -> None:
    assert names("simswap_unofficial_512", *SIMSWAP) == ["input", "onnx::Gemm_1"]
    assert names("simswap_unofficial_512", *reversed(SIMSWAP)) == ["input", "onnx::Gemm_1"]
    mixed = tensor("source", 1, 512), tensor("input", 1, 3, 512, 512)
    assert names("simswap_unofficial_512", *mixed) == ["input", "source"]
    weight = tensor("w", 1, dtype="float64")
    assert names("codeformer", weight, tensor("x", 1, 3, 512, 512)) == ["x", "w"]


def test_a_name_that_nobody_knows_is_bound_where_its_shape_leaves_no_choice() -> None:
    assert names("gfpgan_1.4", tensor("face", "n", 3, 512, 512)) == ["face"]
    assert names("inswapper_128", tensor("b", 1, 512), tensor("a", 1, 3, 128, 128)) == ["a", "b"]
    two = [tensor("a", 1, 3, 256, 256), tensor("b", 1, 3, 256, 256)]
    bound = bind_preset(get_preset("uniface_256"), two)
    with pytest.raises(BadInputError, match="not described: a, b; not in the model: source, target"):
        fit_inputs(bound, two, None)


@pytest.mark.parametrize(("size", "morphs"), [(224, True), (320, False)])
def test_a_dfm_file_says_its_size_and_whether_it_morphs(size: int, morphs: bool) -> None:
    takes = [tensor("in_face:0", "n", size, size, 3), *([tensor("morph_value:0", 1)] if morphs else [])]
    bound = bind_preset(get_preset("dfm"), takes)
    assert bound.image.size == size and bound.image.nhwc and bound.image.bgr
    assert len(bound.inputs) == 1 + morphs
    fit_inputs(bound, takes, None)


def test_a_size_that_a_file_leaves_open_is_asked_for() -> None:
    with pytest.raises(BadInputError, match="does not say the size") as error:
        bind_preset(get_preset("dfm"), [tensor("in_face:0", "n", "h", "w", 3)])
    assert "--input" in error.value.remedy


def test_what_is_bound_keeps_the_rest_of_its_description() -> None:
    known = get_preset("simswap_unofficial_512")
    bound = bind_preset(known, SIMSWAP)
    assert (bound.template, bound.embedder, bound.output, bound.origin) == (
        known.template,
        known.embedder,
        known.output,
        "simswap_unofficial_512",
    )
    assert bound.inputs == (ImageInput("input", 512), EmbeddingInput("onnx::Gemm_1", converter="crossface_simswap"))
