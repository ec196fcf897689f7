"""Models of one name: told apart by their digests, in the store, in what is shown of it, and in reports."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny
from tiny import Settings

from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stored_engines import EngineResult
from trt_facefusion.cli.engines import command as list_command
from trt_facefusion.engine.store.store import Store
from trt_facefusion.inference.open import open_model
from trt_facefusion.report.runs import save_run
from trt_facefusion.types import Precision

FP16, FP32 = Precision.FP16, Precision.FP32


def built(settings: BuildSettings, notes: list[str] | None = None) -> EngineResult:
    return build(settings, note=(notes if notes is not None else []).append).engines[0]


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    (tmp_path / "alice").mkdir()
    return tiny.save(tiny.generator(), tmp_path / "alice" / "model.onnx")


@pytest.fixture
def bob(tmp_path: Path) -> Path:
    (tmp_path / "bob").mkdir()
    return tiny.save(tiny.generator(seed=1), tmp_path / "bob" / "model.onnx")


def test_two_models_of_one_name_live_side_by_side(
    settings: Settings, alice: Path, bob: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes: list[str] = []
    first, second = built(settings(FP32, onnx=alice)), built(settings(FP32, onnx=bob), notes)
    digest = second.manifest.inputs.model_sha256
    assert first.folder.parent.name == "model" and second.folder.parent.name == f"model-{digest[:8]}"
    assert any("another model's of that name" in note for note in notes)
    for model, result in ((alice, first), (bob, second)):
        again = built(settings(FP32, onnx=model))
        assert again.up_to_date and again.folder == result.folder
    assert {open_model(r.folder.parent).label for r in (first, second)} == {
        f"{name}/{first.folder.name}" for name in ("model", f"model-{digest[:8]}")
    }
    list_command(settings().output, as_json=True)
    shown = json.loads(capsys.readouterr().out)["engines"]
    assert {entry["model_sha256"] for entry in shown} == {digest, first.manifest.inputs.model_sha256}


def test_reports_of_namesakes_are_in_folders_of_their_own(
    settings: Settings, alice: Path, bob: Path, tmp_path: Path
) -> None:
    pages = []
    for model in (alice, bob):
        record = build(settings(FP32, onnx=model)).record
        assert record is not None
        pages.append(save_run(record, tmp_path / "reports"))
    assert len({page.parent.parent for page in pages}) == 2


def test_a_file_that_is_exported_again_keeps_its_folder_and_what_it_replaces_is_named(
    settings: Settings, alice: Path
) -> None:
    old = built(settings(FP32, onnx=alice)).manifest.inputs.model_sha256
    stale = built(settings(FP16, onnx=alice)).folder
    tiny.save(tiny.generator(seed=2), alice)
    notes: list[str] = []
    new = built(settings(FP32, onnx=alice), notes)
    assert new.folder.parent == stale.parent
    assert any(
        note == f"replaces {new.folder}, which was built from the file as it was (sha256 {old[:8]})" for note in notes
    )
    assert any("still made from model as it was before" in note and stale.name in note for note in notes)
    taken = open_model(new.folder.parent, FP16)  # the FP16 engine is of the old file: not taken for the new one
    assert taken.manifest is not None and taken.manifest.precision == "fp32"
    assert any(stale.name in note and "another model file" in note for note in taken.notes)


def test_a_copy_of_a_model_is_the_same_model(settings: Settings, alice: Path, tmp_path: Path) -> None:
    first = built(settings(FP32, onnx=alice))
    (tmp_path / "carol").mkdir()
    copied = built(settings(FP32, onnx=Path(shutil.copy(alice, tmp_path / "carol"))))
    assert copied.up_to_date and copied.folder == first.folder


def test_other_settings_replace_and_say_so(settings: Settings, alice: Path) -> None:
    first = built(settings(FP16, onnx=alice))
    notes: list[str] = []
    assert built(settings(FP16, onnx=alice, max_eval=9), notes).folder == first.folder
    assert f"replaces {first.folder}, which was built with other settings, faces or versions" in notes
    notes.clear()
    built(settings(FP16, onnx=alice, max_eval=9, force=True), notes)
    assert not any(note.startswith("replaces") for note in notes)


def test_an_engine_of_an_earlier_version_of_this_tool_is_never_replaced_by_a_namesake(
    settings: Settings, alice: Path, bob: Path
) -> None:
    first = built(settings(FP32, onnx=alice))
    kept = {k: v for k, v in first.manifest.inputs.settings.items() if k != "origin"}
    old = dataclasses.replace(first.manifest, inputs=dataclasses.replace(first.manifest.inputs, settings=kept))
    files = {name: (first.folder / name).read_bytes() for name in first.manifest.files}
    store = Store(settings().output)
    assert store.save(old, files) == first.folder
    assert built(settings(FP32, onnx=alice)).up_to_date
    assert built(settings(FP32, onnx=bob)).folder.parent != first.folder.parent


def test_names_that_differ_in_case_only_never_share_a_folder(settings: Settings, alice: Path, bob: Path) -> None:
    upper = bob.rename(bob.with_name("MODEL.onnx"))
    folders = [built(settings(FP32, onnx=model)).folder.parent.name for model in (alice, upper)]
    assert len({name.casefold() for name in folders}) == 2
