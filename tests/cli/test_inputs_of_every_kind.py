"""Networks of every kind of input and output, from the command line to an engine that is fed as the file was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import border_nets
import numpy as np
import onnxruntime as ort
import pytest
import tiny
from workplace import Outcome, Workplace

from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.inference.open import open_model

Run = Callable[[list[str]], Outcome]
QUICK = {"plan": "rules", "corrections": "none", "max_calib": 32, "max_eval": 8}


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, object]]:
    """The file and the --input options of one of the nets."""
    monkeypatch.chdir(tmp_path)
    np.save("mel.npy", np.random.default_rng(1).standard_normal((1, 20, 16)).astype(np.float32))
    np.save("scale.npy", np.float32(0.9))

    def options(name: str) -> dict[str, object]:
        kind, inputs = border_nets.CASES[name]
        return {**QUICK, "onnx": border_nets.made(kind, tmp_path / f"{name}.onnx"), "input": tuple(inputs)}

    return options


@pytest.mark.parametrize("name", list(border_nets.CASES))
def test_the_engine_takes_and_gives_what_the_file_did(
    name: str, place: Workplace, command: Run, described: Callable[[str], dict[str, object]], tiny_faces: Path
) -> None:
    options = described(name)
    outcome = command(place.options(json=True, **options))
    assert outcome.code == 0, outcome.err
    (engine,) = outcome.json["engines"]
    assert engine["precision"] == "int8"
    found = open_model(Path(engine["path"]))
    assert found.contract is not None
    preset = found.contract.preset
    original = ort.InferenceSession(options["onnx"], providers=["CPUExecutionProvider"])
    template, size = preset.crops[0]
    faces = read_faces(tiny_faces, template=template, size=size, embedder=tiny.Glance(), aligned=True)
    with found.open_runner() as runner:
        mine, theirs = ({i.name: len(i.shape) for i in side} for side in (runner.inputs, original.get_inputs()))
        assert mine == theirs
        feeder = Feeder(preset, faces, tiny.Glance(), None, 1, runner.inputs)
        for face in range(4):
            feeds = feeder([face])
            picture = str(preset.output.name)
            wanted, got = original.run([picture], dict(feeds))[0], runner.infer(feeds)[picture]
            assert (wanted.dtype, wanted.shape) == (got.dtype, got.shape)
            decoded = [preset.output.decode(tensor) for tensor in (wanted, got)]
            assert decoded[0].min() >= -0.01 and 0.05 < decoded[0].max() <= 1.01 and decoded[0].std() > 0.01
            assert measure_ssim(*decoded)[0] > 0.95


def test_masks_stay_and_other_outputs_go_with_a_word(
    place: Workplace, command: Run, described: Callable[[str], dict[str, object]]
) -> None:
    outcome = command(place.options(json=True, **described("nhwc")))
    assert "the picture is out_celeb_face:0; left out of the engine: code:0" in outcome.err
    with open_model(Path(outcome.json["engines"][0]["path"])).open_runner() as runner:
        assert {spec.name for spec in runner.outputs} == {"out_celeb_face:0", "out_celeb_face_mask:0"}


def test_the_command_of_the_manifest_builds_the_same_engine(
    place: Workplace, command: Run, described: Callable[[str], dict[str, object]]
) -> None:
    outcome = command(place.options(json=True, **described("people")))
    engine = outcome.json["engines"][0]
    manifest = open_model(Path(engine["path"])).manifest
    assert manifest is not None
    again = command(["build", "--int8", "--backend", "onnxruntime", "--no-report", "--json", *manifest.command])
    assert again.code == 0 and again.json["engines"][0]["up_to_date"], again.err


def test_an_engine_is_compared_with_its_file_and_profiled(
    place: Workplace, command: Run, described: Callable[[str], dict[str, object]], tiny_faces: Path
) -> None:
    options = described("numbers")
    folder = command(place.options(json=True, **options)).json["engines"][0]["path"]
    compared = command(["diff", str(options["onnx"]), folder, "--faces", str(tiny_faces), "--aligned", "--json"])
    assert compared.code == 0, compared.err
    assert compared.json["picture"]["ssim_drop"] < 0.05
    profiled = command(["profile", folder, "--warmups", "1", "--rounds", "2", "--json"])
    assert profiled.code == 0, profiled.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": ("in_face:0=image:32:0:1", "morph_value:0=value:1")}, "is [N, 32, 32, 3]"),
        ({"input": ("in_face:0=image:64:0:1:nhwc", "morph_value:0=value:1")}, "is [N, 32, 32, 3]"),
        ({"input": ("in_face:0=image:32:0:1:nhwc:template=none", "morph_value:0=value:1")}, "no crop template 'none'"),
        ({"picture": "code:0"}, "'code:0' is no picture"),
        ({"picture": "other"}, "'other' is not an output"),
    ],
)
def test_a_wrong_description_is_one_clear_line(
    changes: dict[str, object],
    said: str,
    place: Workplace,
    command: Run,
    described: Callable[[str], dict[str, object]],
) -> None:
    outcome = command(place.options(**{**described("nhwc"), **changes}))
    assert outcome.code == 2
    assert said in outcome.err.replace("\n", " "), outcome.err


def test_without_a_description_one_that_may_fit_is_said(
    place: Workplace, command: Run, described: Callable[[str], dict[str, object]]
) -> None:
    outcome = command(place.options(**{**described("pixels"), "input": None}))
    assert outcome.code == 2
    assert "--input frame=image:32:0:255:nhwc" in outcome.err.replace("\n", " "), outcome.err


def test_a_file_that_shows_whose_it_is_needs_no_description(
    place: Workplace, command: Run, described: Callable[[str], dict[str, object]]
) -> None:
    outcome = command(place.options(**{**described("nhwc"), "input": None}))
    assert outcome.code == 0, outcome.err
    assert "taken for dfm: its output is called out_celeb_face:0" in outcome.err.replace("\n", " ")


def test_a_batch_for_a_model_that_takes_one_face_is_refused_with_the_reason(
    place: Workplace, command: Run, described: Callable[[str], dict[str, object]]
) -> None:
    outcome = command(place.options(batch="1:2:4", **described("vector")))
    assert outcome.code == 2 and "id has no batch axis" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nhwc", "pixels", "numbers"])
def test_tensorrt_rtx_takes_them_too(
    name: str, place: Workplace, command: Run, described: Callable[[str], dict[str, object]]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = {"backend": "tensorrt-rtx", "target": "sm86", "objective": "macs"}  # so small, INT8 is never faster
    outcome = command(place.options(json=True, **{**described(name), **engine}))
    assert outcome.code == 0, outcome.err
    (engine,) = outcome.json["engines"]
    assert engine["precision"] == "int8"
    told = "tensorrt-rtx has no float64: weight is float32 here"
    assert (told in outcome.err) == (name == "numbers")
    assert (told in (Path(engine["path"]) / "manifest.json").read_text()) == (name == "numbers")


def test_the_syntax_of_inputs_is_explained(command: Run) -> None:
    outcome = command(["presets", "--syntax"])
    assert outcome.code == 0
    assert "stack=target/lower+target" in outcome.out and "ffhq_512" in outcome.out
    listed = command(["presets"])
    assert listed.code == 0 and "blendswap_256" in listed.out
