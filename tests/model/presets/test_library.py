"""A known generator is one file: the recipe in docs/architecture.md, followed here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trt_facefusion.cli.main import run
from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.align import TEMPLATES
from trt_facefusion.model.presets import (
    PRESETS,
    EmbeddingInput,
    ImageInput,
    ImageOutput,
    Preset,
    get_preset,
    parse_input,
)
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.quantization.precision.rules import require_roles

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
        ("size: 96", "size: -1", r"preset.inputs\[0\].size is -1, which cannot be"),
        ("name: who", "name: who, also: [face]", "one name twice"),
        ("embedder: dlib", "embedder: dlib\nfiles: [{bytes: 3, sha256: abc}]", r"preset.files\[0\] is no size"),
        ("embedder: dlib", "embedder: dlib\nhints: [{because: x}]", r"preset.hints\[0\] is"),
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


def test_a_preset_of_ones_own_is_named_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(TOY)
    for path in (tmp_path / "mine.yaml", tmp_path / "mine"):
        mine = get_preset(str(path))
        assert mine.name == "mine" and mine.known and mine.origin == str(path)
    assert run(["presets", str(tmp_path)]) == 0 and "face: 96 px" in capsys.readouterr().out
    with pytest.raises(BadInputError, match=r"nothing\.yaml cannot be read"):
        get_preset(str(tmp_path / "nothing.yaml"))


def test_the_example_of_the_document_is_a_preset(tmp_path: Path) -> None:
    document = Path(__file__).resolve().parents[3] / "docs" / "presets.md"
    example = re.search(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    (tmp_path / "mine.yaml").write_text(example[1])
    mine = get_preset(str(tmp_path / "mine.yaml"))
    assert mine.embedding is not None and mine.embedding.projection == "buff2fs" and mine.output.masks == ("mask",)


@pytest.mark.parametrize("path", ["preset.json", ""])
def test_the_preset_that_a_build_writes_is_accepted_back(tmp_path: Path, path: str) -> None:
    np.save(tmp_path / "mask.npy", np.ones(3, np.float32))
    inputs = ("face=image:96:-1:1:bgr:template=ffhq_512", "who=embedding:raw:projection=emap")
    preset = Preset.from_inputs(
        [parse_input(text) for text in (*inputs, f"mask=file:{tmp_path / 'mask.npy'}")], "out:0:1:rgb:masks=m"
    )
    for name, content in Contract(preset).files().items():
        (tmp_path / name).write_bytes(content)
    back = get_preset(str(tmp_path / path))
    assert back.origin == str(tmp_path / path) and back.inputs[:2] == preset.inputs[:2] and back.output == preset.output
    assert np.array_equal(back.files[0].values(), np.ones(3))


def test_a_damaged_preset_of_a_build_is_refused_by_its_field(tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text('{"name": "x", "inputs": [{"kind": "image", "name": "i", "size": 0}]}')
    with pytest.raises(BadInputError, match=r"cannot be read: .*preset\.embedder is missing"):
        get_preset(str(tmp_path / "preset.json"))


@pytest.mark.parametrize(("old", "new"), [("gfpgan_512", "gfpgan_1.4"), ("hyperswap_256", "hyperswap_1a_256")])
def test_a_name_of_before_is_told_with_the_new_one(old: str, new: str) -> None:
    with pytest.raises(BadInputError, match=new):
        get_preset(old)


@pytest.mark.parametrize("name", list(PRESETS))
def test_hints_name_roles_that_there_are(name: str) -> None:
    require_roles(get_preset(name).hints)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_known_preset_has_templates_that_exist(name: str) -> None:
    assert all(template in TEMPLATES for template, _ in get_preset(name).crops)
