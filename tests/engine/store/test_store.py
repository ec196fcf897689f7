from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import FILES, manifest

from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import Store, make_safe_name
from trt_facefusion.errors import StoreError


@given(st.text())
def test_a_safe_name_is_one_part_of_a_path(text: str) -> None:
    name = make_safe_name(text)
    assert name == Path(name).name
    assert name.isascii()
    assert 0 < len(name) <= 80
    assert not name.startswith((".", "-"))
    assert make_safe_name(name) == name or len(name) > 64


@given(st.text(), st.text())
def test_two_models_never_share_a_folder(one: str, other: str) -> None:
    assert (make_safe_name(one) == make_safe_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "..", "", "a b", "ü", "x" * 300])
def test_names_stay_inside_the_store(tmp_path: Path, name: str) -> None:
    folder = Store(tmp_path).save(manifest(model=name), FILES)
    assert folder.resolve().is_relative_to(tmp_path.resolve())
    assert Store(tmp_path).load(folder).model == name


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.save(manifest(), FILES)
    assert folder == tmp_path / "reference" / "fp16-sm86-tensorrt-rtx-1.7.1.116"
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    loaded = store.load(folder)
    assert loaded.files["engine.engine"].size_bytes == 6
    assert store.find("key") == (folder, loaded)
    assert store.find("another key") is None
    assert store.list() == [(folder, loaded)]


def test_opening_a_store_makes_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "engines").list() == []
    assert not (tmp_path / "engines").exists()


def test_saving_again_replaces(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(manifest(), FILES)
    folder = store.save(manifest(build_key="newer"), {"engine.engine": b"newer"})
    assert store.find("key") is None
    assert store.find("newer") is not None
    assert not (folder / "typed.onnx").exists()


@pytest.mark.parametrize("name", ["engine.engine", "plan.yaml"])
def test_a_damaged_file_is_told_with_the_command_that_rebuilds(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    folder = store.save(manifest(), FILES)
    content = bytearray((folder / name).read_bytes())
    content[0] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(StoreError) as error:
        store.load(folder)
    assert name in error.value.message
    rebuild = "trt-ff build --onnx 'a model.onnx' --calib faces --int8 --target sm86 --backend tensorrt-rtx --force"
    assert rebuild in error.value.remedy
    assert store.find("key") is None


def test_a_cut_or_missing_file_is_listed_as_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.save(manifest(), FILES)
    (folder / "engine.engine").write_bytes(b"eng")
    assert isinstance(store.list()[0][1], StoreError)
    (folder / "engine.engine").unlink()
    with pytest.raises(StoreError, match="missing"):
        store.load(folder)


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff\xfe", b'{"schema": 99}'])
def test_a_damaged_manifest_is_never_an_engine(tmp_path: Path, text: bytes) -> None:
    store = Store(tmp_path)
    folder = store.save(manifest(), FILES)
    (folder / "manifest.json").write_bytes(text)
    assert isinstance(store.list()[0][1], StoreError)
    assert store.find("key") is None


def test_a_folder_without_a_manifest_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "model" / "int8").mkdir(parents=True)
    with pytest.raises(StoreError, match="no engine"):
        Store(tmp_path).load(tmp_path / "model" / "int8")


def test_a_manifest_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.save(manifest(), FILES)
    text = (folder / "manifest.json").read_text().replace('"plan.yaml"', '"../../secret"')
    (folder / "manifest.json").write_text(text)
    (tmp_path / "secret").write_bytes(FILES["plan.yaml"])
    with pytest.raises(StoreError):
        store.load(folder)


@pytest.mark.parametrize("name", ["../x", "manifest.json", ".hidden", "a/b"])
def test_files_keep_to_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        Store(tmp_path).save(manifest(), {name: b""})


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        Store(tmp_path).save(manifest(seconds=float("nan")), FILES)
    assert not any(tmp_path.iterdir())


SAVE_FOR_EVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from manifests import FILES, manifest
from trt_facefusion.engine.store.store import Store
store = Store(Path(sys.argv[1]))
for number in range(10**6):
    store.save(manifest(build_key=f"key {number}"), FILES)
    print(number, flush=True)
"""


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_a_killed_save_leaves_a_whole_engine(tmp_path: Path, saves: int) -> None:
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path), str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(saves):
            assert process.stdout.readline()
        process.kill()
    entries = Store(tmp_path).list()
    assert len(entries) == 1
    folder, found = entries[0]
    assert isinstance(found, Manifest)
    assert Store(tmp_path).load(folder) == found
    left = {path.name for path in folder.parent.iterdir()}
    assert not any(name.startswith((".tmp-", ".old-")) for name in left)
