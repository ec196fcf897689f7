"""What --input and --picture can say, and that it is said again in the same words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from usual_files import describe_usual_file

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets import (
    PRESETS,
    EmbeddingInput,
    FileInput,
    ImageInput,
    ImageOutput,
    Part,
    Preset,
    ValueInput,
)
from trt_facefusion.model.presets.inputs import SIDES, SOURCE, TARGET
from trt_facefusion.model.presets.syntax import INPUT_HELP, parse_input, parse_picture, write_input, write_picture

CROPS = np.arange(2 * 16 * 16 * 3, dtype=np.uint32).reshape(2, 16, 16, 3).astype(np.uint8)


def image(text: str) -> ImageInput:
    found = parse_input(f"x=image:{text}")
    assert isinstance(found, ImageInput)
    return found


persons = st.sampled_from([TARGET, SOURCE])
parts = st.builds(Part, persons) | st.builds(Part, persons, st.sampled_from(SIDES), st.sampled_from([0.5, 0.25]))
triples = st.tuples(*[st.floats(0.01, 2)] * 3)


@st.composite
def images(draw: st.DrawFn) -> ImageInput:
    stack = tuple(draw(st.lists(parts, max_size=3)))
    order = draw(st.sampled_from(["rgb", "bgr", "gray"]))
    size = draw(st.integers(16, 4096))
    width = draw(st.none() | st.integers(16, 4096).filter(lambda w: w != size))
    person = TARGET if stack else draw(st.sampled_from(["", SOURCE]))
    template = draw(st.none() | st.just("ffhq_512"))
    nhwc = draw(st.booleans())
    mean, std = draw(triples), draw(triples)
    return ImageInput("x", size, mean, std, order == "bgr", width, order == "gray", nhwc, template, person, stack)


@given(images())
def test_every_image_is_written_as_it_is_read(spec: ImageInput) -> None:
    back = parse_input(write_input(spec))
    assert isinstance(back, ImageInput)
    if len(set(spec.mean)) == len(set(spec.std)) == 1:  # written as MIN:MAX
        assert back.limits == pytest.approx(spec.limits, rel=1e-6, abs=1e-6)
        assert back.shape == spec.shape
    else:
        assert back == spec


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_known_preset_can_be_said_with_input_options(name: str) -> None:
    preset = describe_usual_file(name)
    again = Preset.from_inputs(
        [parse_input(write_input(spec, among_images=len(preset.images) > 1)) for spec in preset.inputs]
    )
    assert [spec.name for spec in again.images if spec.shows(SOURCE)] == [
        spec.name for spec in preset.images if spec.shows(SOURCE)
    ]
    assert again.image.limits == pytest.approx(preset.image.limits)
    assert again.embedding == preset.embedding
    assert [i for i in again.inputs if isinstance(i, ValueInput)] == [
        i for i in preset.inputs if isinstance(i, ValueInput)
    ]
    written = parse_picture(write_picture(ImageOutput("out", preset.output.mean, preset.output.std)), ImageOutput())
    assert written.mean == pytest.approx(preset.output.mean) and written.std == pytest.approx(preset.output.std)


def test_layouts_and_channels() -> None:
    plain = image("16:0:1").encode(CROPS)
    assert image("16:0:1:nhwc").encode(CROPS).shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(image("16:0:1:nhwc:bgr").encode(CROPS), plain[:, ::-1].transpose(0, 2, 3, 1))
    grey = image("16:0:1:gray").encode(CROPS)
    assert grey.shape == (2, 1, 16, 16)
    np.testing.assert_allclose(grey[:, 0], 0.299 * plain[:, 0] + 0.587 * plain[:, 1] + 0.114 * plain[:, 2], atol=1e-6)


def test_a_stack_holds_the_masked_target_and_the_source() -> None:
    spec = image("16:0:1:stack=target/lower+source")
    sources = 255 - CROPS
    tensor = spec.encode(CROPS, sources)
    assert tensor.shape == (2, *spec.shape) == (2, 6, 16, 16)
    assert (tensor[:, :3, 8:] == 0).all()
    np.testing.assert_array_equal(tensor[:, :3, :8], image("16:0:1").encode(CROPS)[:, :, :8])
    np.testing.assert_array_equal(tensor[:, 3:], image("16:0:1").encode(sources))


@pytest.mark.parametrize(
    ("side", "black"), [("lower", np.s_[12:]), ("upper", np.s_[:4]), ("left", np.s_[:, :4]), ("right", np.s_[:, 12:])]
)
def test_any_side_can_be_black(side: str, black: object) -> None:
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    found = image(f"16:-1:1:nhwc:stack=target/{side}0.25").encode(white)[0, ..., 0]
    assert (found[black] == -1).all()  # type: ignore[index]
    assert (found == -1).sum() == 64
    assert (white == 255).all()


def test_a_picture_that_is_no_square_is_cut_from_the_middle() -> None:
    spec = image("16x32:0:255:nhwc")
    rows = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None, None], (1, 32, 32, 3))
    assert spec.side == 32
    np.testing.assert_allclose(spec.encode(rows)[0, :, 0, 0], np.arange(8, 24), atol=1e-4)


def test_mean_and_deviation_by_channel() -> None:
    spec = image("64:mean=0.485,0.456,0.406:std=0.229,0.224,0.225")
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert image("64:mean=0.5:std=0.5").limits == (-1, 1)


def test_embeddings_and_numbers() -> None:
    assert parse_input("s=embedding:raw:projection=emap") == EmbeddingInput("s", False, "emap")
    assert parse_input("w=value:0.7") == ValueInput("w", 0.7)
    assert parse_input("w=value:true") == ValueInput("w", 1)
    assert parse_input("w=value:7").values().dtype == np.int64  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        "x=image:64:0:1:mean=0:std=1",
        "x=image:64:mean=0.5",
        "x=image:64x:0:1",
        "x=image:64:0:1:template=",
        "x=image:64:0:1:stack=other",
        "x=image:64:0:1:stack=target/lower2",
        "x=image:64:0:1:stack=target:source",
        "x=image:64:0:1:target:source",
        "x=image:64:mean=a,b,c:std=1",
        "x=image:64:mean=0:std=0",
        "x=embedding:projection=",
        "x=value:",
        "x=value:nan",
        "x=value:seven",
    ],
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="is not understood"):
        parse_input(text)


@pytest.mark.parametrize(
    ("inputs", "target"),
    [
        (("a", "b"), "a"),
        (("source", "target"), "target"),
        (("source_image", "frame"), "frame"),
        (("a:source", "b"), "b"),
        (("a", "b:target"), "b"),
    ],
)
def test_of_several_images_one_shows_the_target(inputs: tuple[str, str], target: str) -> None:
    texts = [f"{name}=image:64:0:1{':' + who if who else ''}" for name, _, who in (i.partition(":") for i in inputs)]
    preset = Preset.from_inputs([parse_input(text) for text in texts])
    assert preset.image.name == target
    assert [i.name for i in preset.images if i.shows(SOURCE)] == [i.name for i in preset.images if i.name != target]
    assert preset.swaps


def test_templates_and_sizes_of_each_image() -> None:
    texts = ("source=image:112:0:1:template=arcface_112_v2", "target=image:256:0:1:template=ffhq_512")
    preset = Preset.from_inputs([parse_input(text) for text in texts])
    assert preset.crops == (("ffhq_512", 256), ("arcface_112_v2", 112))
    assert preset.template == "ffhq_512"


def test_the_text_of_what_could_be_said_before_is_what_it_was() -> None:
    preset = Preset.from_inputs([parse_input("image=image:64:-1:1:bgr"), parse_input("identity=embedding")])
    assert repr(preset) == (
        "Preset(name='custom', inputs=(ImageInput(name='image', size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), "
        "bgr=True), EmbeddingInput(name='identity', normalise=True, projection=None)), output=ImageOutput(name=None, "
        "mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), bgr=True), template='arcface_128', embedder='dlib')"
    )


def test_the_examples_of_the_help_are_understood() -> None:
    examples = INPUT_HELP.partition("Examples")[2].split("--input ")[1:]
    assert len(examples) >= 5
    specs = [parse_input(example.strip()) for example in examples]
    assert {type(spec) for spec in specs} >= {ImageInput, ValueInput, FileInput}


@pytest.mark.parametrize(
    "text",
    [
        "out:-1:1:rgb:masks=m",
        "out_face:0:0:1:bgr:masks=a:0+b:0",
        "out:mean=0.4,0.5,0.6:std=0.2,0.3,0.4:rgb",
        "o:0:1:bgr",
    ],
)
def test_all_that_a_picture_can_say_is_written_as_it_is_read(text: str) -> None:
    assert write_picture(parse_picture(text, ImageOutput())) == text


@pytest.mark.parametrize(
    "text",
    [
        "s=embedding:raw:converter=crossface_ghost",
        "s=embedding:projection=buff2fs",
        "w=value:0.5:0.0:1.0",
        "w=value:0.5",
    ],
)
def test_all_that_an_identity_and_a_number_can_say_is_written_as_it_is_read(text: str) -> None:
    assert write_input(parse_input(text)) == text


@pytest.mark.parametrize("text", ["w=value:2:0:1", "w=value:0.5:0", "s=embedding:converter=", "s=embedding:unit"])
def test_what_an_identity_or_a_number_cannot_say_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="is not understood"):
        parse_input(text)
