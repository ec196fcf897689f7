"""A known generator is one file: the recipe in docs/architecture.md, followed here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from trt_facefusion.cli.main import run
from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.align import TEMPLATES
from trt_facefusion.model.presets import PRESETS, EmbeddingInput, ImageInput, ImageOutput, Preset, get_preset

TOY = """\
inputs:
- {kind: image, name: face, size: 96, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
- {kind: embedding, name: who}
output: {name: swapped}
template: ffhq_512
embedder: dlib
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the folder of known presets, which is read in its place."""
    copy = tmp_path / "presets"
    shutil.copytree(PRESETS.folder, copy)
    monkeypatch.setattr(PRESETS, "folder", copy)
    return copy


def test_a_new_preset_is_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = list(PRESETS)
    PRESETS.folder = folder.parent / "more"
    shutil.copytree(folder, PRESETS.folder)
    (PRESETS.folder / "toy.yaml").write_text(TOY)
    half = (0.5, 0.5, 0.5)
    toy = Preset(
        "toy", (ImageInput("face", 96, half, half), EmbeddingInput("who")), ImageOutput("swapped"), "ffhq_512", "dlib"
    )
    assert get_preset("toy") == toy and repr(get_preset("toy")) == repr(toy)
    assert list(PRESETS) == [*known, "toy"]
    assert run(["presets"]) == 0 and "face: 96 px, -1..1" in capsys.readouterr().out


def test_a_build_takes_a_new_preset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "toy.yaml").write_text(TOY)
    words = ["build", "--int8", "--calib", "nowhere", "--onnx", "nothing.onnx", "--preset"]
    assert run([*words, "toy"]) == 2 and "nothing.onnx" in capsys.readouterr().err
    assert run([*words, "joy"]) == 2 and "there is no preset 'joy'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("size: 96", "size: big", r"preset.inputs\[0\].size is 'big', not int"),
        ("size: 96", "size: 0", r"preset.inputs\[0\].size is 0, which cannot be"),
        ("name: who", "name: face", "one name twice"),
        ("kind: embedding", "kind: file", r"preset.inputs\[1\] is a file"),
        ("embedder: dlib\n", "", "preset.embedder is missing"),
        ("embedder: dlib", "embedding: dlib", "preset.embedder is missing"),
        ("embedder: dlib", "embedder: dlib\ncolour: red", "preset.colour is unknown"),
        ("embedder: dlib", "embedder: dlib\nname: toy", "preset.name is unknown"),
        ("embedder: dlib", "embedder: dlib\norder: first", "preset.order is 'first', not int"),
        ("inputs:", "inputs: [", "it is not YAML"),
    ],
)
def test_a_damaged_file_is_refused_by_its_field(folder: Path, before: str, after: str, told: str) -> None:
    (folder / "toy.yaml").write_text(TOY.replace(before, after))
    with pytest.raises(BadInputError, match=f"toy.yaml cannot be read: .*{told}"):
        get_preset("toy")


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_known_preset_has_templates_that_exist(name: str) -> None:
    assert all(template in TEMPLATES for template, _ in get_preset(name).crops)
