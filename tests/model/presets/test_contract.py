"""A preset survives the way through an engine folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from usual_files import describe_usual_file

from trt_facefusion.errors import StoreError
from trt_facefusion.model.presets import PRESETS, FileInput, Preset, parse_input
from trt_facefusion.model.presets.contract import Contract


def _through(contract: Contract, folder: Path) -> Contract:
    for name, data in contract.files().items():
        (folder / name).write_bytes(data)
    return Contract.load(folder)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_known_preset_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    contract = Contract(describe_usual_file(name))
    assert _through(contract, tmp_path) == contract


def test_values_and_projection_come_back_without_the_original_files(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float64).reshape(2, 3)
    original, stored = tmp_path / "original.npy", tmp_path / "stored"
    np.save(original, values)
    stored.mkdir()
    preset = Preset.from_inputs([parse_input("x=image:64:-1:1:bgr"), parse_input(f"w=file:{original}")])
    files = Contract(preset, np.eye(3, dtype=np.float32)).files()
    original.unlink()
    for name, data in files.items():
        (stored / name).write_bytes(data)
    back = Contract.load(stored)
    assert back.projection is not None and np.array_equal(back.projection, np.eye(3))
    assert isinstance(back.preset.inputs[1], FileInput)
    assert np.array_equal(back.preset.inputs[1].values(), values)
    assert back.preset.inputs[0] == preset.inputs[0]


@pytest.mark.parametrize("text", [b"", b"[]", b'{"inputs": [{"kind": "magic"}]}', b'{"inputs": 3}'])
def test_a_damaged_description_is_refused_with_a_remedy(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_bytes(text)
    with pytest.raises(StoreError, match="does not say how") as caught:
        Contract.load(tmp_path)
    assert "--force" in caught.value.remedy


def test_every_kind_of_input_comes_back(tmp_path: Path) -> None:
    texts = [
        "target=image:64x48:mean=0.1,0.2,0.3:std=0.5,0.6,0.7:bgr:nhwc:template=ffhq_512",
        "source=image:112:0:1:gray:source",
        "both=image:96:0:1:stack=target/lower0.4+source",
        "id=embedding:raw:projection=emap",
        "w=value:0.7",
        "n=value:3",
    ]
    preset = Preset.from_inputs([parse_input(text) for text in texts], "out:-1:1:rgb")
    assert _through(Contract(preset), tmp_path) == Contract(preset)


def test_a_description_of_before_still_loads(tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text(
        '{"name": "custom", "inputs": [{"kind": "image", "name": "x", "size": 64, "mean": [0.5, 0.5, 0.5], '
        '"std": [0.5, 0.5, 0.5], "bgr": true}, {"kind": "embedding", "name": "s", "normalise": true, "projection": '
        'null}], "output": {"name": null, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "bgr": true}, '
        '"template": "arcface_128", "embedder": "dlib"}'
    )
    preset = Preset.from_inputs([parse_input("x=image:64:-1:1:bgr"), parse_input("s=embedding")])
    assert Contract.load(tmp_path) == Contract(preset)


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        (("inputs",), {}, "inputs"),
        (("inputs", 0), "x", r"inputs\[0\]"),
        (("inputs", 0, "kind"), "magic", r"inputs\[0\].kind"),
        (("inputs", 0, "kind"), [], r"inputs\[0\].kind"),
        (("inputs", 0, "name"), 3, r"inputs\[0\].name"),
        (("inputs", 0, "name"), "w", "one name twice"),
        (("inputs", 0, "size"), "64", r"inputs\[0\].size"),
        (("inputs", 0, "size"), True, r"inputs\[0\].size"),
        (("inputs", 0, "mean"), [0, 0], r"inputs\[0\].mean"),
        (("inputs", 0, "mean"), [0, 0, float("nan")], "NaN, which is no number"),
        (("inputs", 0, "std"), [0, 0, 0], r"inputs\[0\].std"),
        (("inputs", 0, "bgr"), "yes", r"inputs\[0\].bgr"),
        (("inputs", 0, "person"), "nobody", r"inputs\[0\].person"),
        (("inputs", 0, "parts"), [{"person": "target", "masked": "inside"}], r"parts\[0\].masked"),
        (("inputs", 0, "colour"), 1, r"inputs\[0\].colour is unknown"),
        (("inputs", 1, "value"), None, r"inputs\[1\].value"),
        (("output",), None, "output"),
        (("output", "ranged"), 1, "output.ranged"),
        (("name",), None, "name"),
        (("template",), 1, "template"),
    ],
)
def test_a_damaged_field_is_named(place: tuple[str | int, ...], value: object, field: str, tmp_path: Path) -> None:
    preset = Preset.from_inputs([parse_input("x=image:64:0:1"), parse_input("w=value:1")])
    described = json.loads(Contract(preset).files()["preset.json"])
    spot = described
    for step in place[:-1]:
        spot = spot[step]
    spot[place[-1]] = value
    (tmp_path / "preset.json").write_text(json.dumps(described))
    with pytest.raises(StoreError, match=field):
        Contract.load(tmp_path)


def test_a_description_without_its_values_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones(3))
    preset = Preset.from_inputs([parse_input("x=image:64:0:1"), parse_input(f"w=file:{tmp_path / 'v.npy'}")])
    files = Contract(preset).files()
    (tmp_path / "preset.json").write_bytes(files["preset.json"])
    with pytest.raises(StoreError, match=r"input-1\.npy"):
        Contract.load(tmp_path)
