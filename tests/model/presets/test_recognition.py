"""A file is recognised by its digest, else by its graph; where several generators fit, all are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trt_facefusion.model.presets import PRESETS, get_preset
from trt_facefusion.model.presets.recognition import FileFacts, Recognition, recognise
from trt_facefusion.types import TensorSpec


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, dtype)


def image(name: str, size: int) -> TensorSpec:
    return spec(name, 1, 3, size, size)


EMAP = {"buff2fs": (512, 512)}
VECTOR = spec("source", 1, 512)
FILES = {
    "inswapper_128": FileFacts((image("target", 128), VECTOR), (image("output", 128),), EMAP, 9),
    "simswap_unofficial_512": FileFacts((image("input", 512), spec("onnx::Gemm_1", 1, 512)), (image("o", 512),), {}, 9),
    "hyperswap_1a_256": FileFacts(
        (VECTOR, image("target", 256)), (image("output", 256), spec("mask", 1, 1, 256, 256)), {}, 9
    ),
    "uniface_256": FileFacts((image("source", 256), image("target", 256)), (image("output", 256),), {}, 9),
    "blendswap_256": FileFacts((image("source", 112), image("target", 256)), (image("output", 256),), {}, 9),
    "ghost_2_256": FileFacts((image("target", 256), VECTOR), (image("1165", 256),), {}, 9),
    "gpen_bfr_1024": FileFacts((image("input", 1024),), (image("output", 1024),), {}, 9),
    "codeformer": FileFacts((image("x", 512), spec("w", 1, dtype="float64")), (image("y", 512),), {}, 9),
    "restoreformer_plus_plus": FileFacts(
        (image("input", 512),), (image("2359", 512), spec("2360", 1, 256, 16, 16)), {}, 9
    ),
    "dfm": FileFacts(
        (spec("in_face:0", "n", 224, 224, 3),),
        tuple(
            spec(f"{name}:0", "n", 224, 224, channels)
            for name, channels in (("out_face_mask", 1), ("out_celeb_face", 3), ("out_celeb_face_mask", 1))
        ),
        {},
        9,
    ),
}


def names(recognition: Recognition) -> list[str]:
    return [candidate.preset.name for candidate in recognition.candidates]


@pytest.mark.parametrize("name", FILES)
def test_a_graph_that_leaves_no_choice_is_recognised(name: str) -> None:
    recognition = recognise(FILES[name])
    assert recognition.preset is not None and recognition.preset.name == name
    assert {*names(recognition), *recognition.ruled_out} == set(PRESETS)


def test_generators_that_are_fed_alike_are_no_ambiguity() -> None:
    recognition = recognise(FILES["hyperswap_1a_256"])
    assert names(recognition) == ["hyperswap_1a_256", "hyperswap_1b_256", "hyperswap_1c_256"]
    assert not recognition.ambiguous


def test_an_ambiguity_shows_the_candidates_and_takes_none() -> None:
    swapper = FileFacts((VECTOR, image("target", 256)), (image("output", 256),), {}, 9)
    recognition = recognise(swapper)
    assert recognition.preset is None and recognition.ambiguous
    assert set(names(recognition)) == {
        "simswap_256", "ghost_1_256", "ghost_2_256", "ghost_3_256", "hififace_unofficial_256"
    }  # fmt: skip
    assert "gives no mask" in recognition.ruled_out["hyperswap_1a_256"]


def test_the_bytes_of_a_public_file_decide_where_its_graph_does_not() -> None:
    restorer = FileFacts((image("input", 512),), (image("output", 512),), {}, 9)
    assert recognise(restorer).ambiguous
    by_size = recognise(replace(restorer, size_bytes=284_340_240))
    assert names(by_size) == ["gpen_bfr_512"] and "284,340,240 bytes" in by_size.candidates[0].why


def test_a_digest_is_the_strongest_evidence() -> None:
    sha256 = "e4a3f08c" + "0" * 50 + "9e16af"
    public = replace(FILES["inswapper_128"], size_bytes=554_253_681, sha256=sha256)
    assert "SHA-256" in recognise(public).candidates[0].why
    assert "SHA-256" not in recognise(replace(public, sha256="f" * 64)).candidates[0].why


def test_the_matrix_for_embeddings_tells_generators_apart() -> None:
    without = recognise(replace(FILES["inswapper_128"], unread={"scale": (32, 32)}))
    assert not without.candidates and "no matrix buff2fs" in without.ruled_out["inswapper_128"]
    renamed = recognise(replace(FILES["inswapper_128"], unread={"4711": (512, 512), "_ln_scale_32x32": (32, 32)}))
    assert names(renamed) == ["inswapper_128"]


@pytest.mark.parametrize(
    "facts",
    [
        FileFacts((image("target", 32), spec("source", 1, 64)), (image("output", 32),), {}, 9),
        FileFacts((image("target", 128), spec("source", 1, 128)), (image("output", 128),), {}, 9),
        FileFacts((image("photo", 256), VECTOR), (image("output", 256),), {}, 9),
        FileFacts((spec("input", 1, 3, 256, 256, dtype="uint8"),), (image("output", 256),), {}, 9),
        FileFacts((), (), {}, 9),
    ],
)
def test_a_generator_of_ones_own_is_none_of_them(facts: FileFacts) -> None:
    recognition = recognise(facts)
    assert recognition.preset is None and not recognition.ambiguous


def test_what_is_recognised_is_the_preset_of_that_name() -> None:
    recognised = recognise(FILES["inswapper_128"]).preset
    assert recognised == get_preset("inswapper_128") and recognised.origin == "inswapper_128"
