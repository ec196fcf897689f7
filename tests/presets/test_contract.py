"""A preset survives the way through an engine folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_facefusion.errors import StoreError
from trt_facefusion.presets import PRESETS, FileInput, Preset, parse_input
from trt_facefusion.presets.contract import Contract


def _through(contract: Contract, folder: Path) -> Contract:
    for name, data in contract.files().items():
        (folder / name).write_bytes(data)
    return Contract.load(folder)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_known_preset_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    assert _through(Contract(PRESETS[name]), tmp_path) == Contract(PRESETS[name])


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
