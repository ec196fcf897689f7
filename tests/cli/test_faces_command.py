"""`faces audit` and `faces curate`."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workplace import Outcome

from trt_facefusion.report import selection

Command = Callable[[list[str]], Outcome]


@pytest.fixture(scope="module")
def faces(sample_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "faces"
    folder.mkdir()
    for path in sorted(sample_faces.glob("*.jpg"))[:8]:
        shutil.copy(path, folder)
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def numbers(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a JSON value with its place; the elements of a list share one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, f"{place}[]")
    else:
        yield place, value


def test_the_audit_says_what_is_covered_and_what_to_add(command: Command, faces: Path) -> None:
    outcome = command(["faces", "audit", str(faces)])
    assert outcome.code == 0
    assert "8 faces in 8 photos, about 8 people" in outcome.out
    assert "no profile faces (beyond 45°)" in outcome.out and "add profiles" in outcome.out
    end = outcome.out.splitlines()[-4:]
    assert any("only 8 different usable photos" in line for line in end)


def test_strict_makes_gaps_an_exit_code(command: Command, faces: Path) -> None:
    assert command(["faces", "audit", str(faces), "--strict"]).code == 2


def test_the_audit_as_json_holds_no_embedding_and_says_not_who_is_whom(command: Command, faces: Path) -> None:
    found = command(["faces", "audit", str(faces), "--json"]).json
    assert {photo["file"] for photo in found["per_photo"]} == {path.name for path in faces.iterdir()}
    assert set(found["per_photo"][0]) == {
        *("file", "face_px", "faces_found", "sharpness", "exposure", "pose_degrees", "ita_degrees", "tone"),
        *("covered", "near_copy_of"),
    }
    places = {place for place, _ in numbers(found)}
    assert not any(word in place for place in places for word in ("embed", "identity", "persons", "label"))
    # A list of numbers could be an embedding: there is none.
    assert not any(place.endswith("[]") and isinstance(value, float) for place, value in numbers(found))


def test_an_audit_writes_nothing_but_the_sheet_that_was_asked_for(
    command: Command, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(faces)
    command(["faces", "audit", str(faces)])
    assert not list(tmp_path.iterdir())
    outcome = command(["faces", "audit", str(faces), "--sheet", "page.html"])
    assert outcome.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "page.png"]
    assert listing(faces) == before


def test_a_selection_holds_the_photos_and_the_reasons(command: Command, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "chosen"
    outcome = command(["faces", "curate", str(faces), "-n", "5", "-o", str(out)])
    assert outcome.code == 0 and outcome.out.rstrip().endswith(f"written: {out}")
    assert "chosen 5 of 8 faces" in outcome.out
    photos = sorted(path.name for path in out.glob("*.jpg"))
    assert all((out / name).read_bytes() == (faces / name).read_bytes() for name in photos)
    rows = list(csv.DictReader((out / selection.REASONS).open()))
    assert sorted(row["file"] for row in rows if row["chosen"]) == photos and len(photos) == 5
    assert all(row["reason"] for row in rows)
    facts = json.loads((out / selection.FACTS).read_text())
    assert sorted(facts["chosen"]) == photos
    assert not any(place.endswith("[]") and isinstance(value, float) for place, value in numbers(facts))
    assert (out / selection.SHEET).is_file()


def test_a_repeated_selection_is_byte_for_byte_the_same(command: Command, faces: Path, tmp_path: Path) -> None:
    words = ["faces", "curate", str(faces), "-n", "4", "-o", str(tmp_path / "chosen")]
    assert command(words).code == 0
    first = listing(tmp_path / "chosen")
    refused = command(words)
    assert refused.code == 2 and "--force" in refused.err
    assert command([*words, "--force"]).code == 0
    assert listing(tmp_path / "chosen") == first


def test_more_than_there_are_is_a_warning(command: Command, faces: Path, tmp_path: Path) -> None:
    outcome = command(["faces", "curate", str(faces), "-n", "50", "-o", str(tmp_path / "chosen"), "--json"])
    assert outcome.code == 0 and len(outcome.json["chosen"]) == 8
    assert "only 8 photos are fit, 50 were asked for" in outcome.err


def test_links_point_to_the_photos(command: Command, faces: Path, tmp_path: Path) -> None:
    assert command(["faces", "curate", str(faces), "-n", "3", "-o", str(tmp_path / "chosen"), "--link"]).code == 0
    links = list((tmp_path / "chosen").glob("*.jpg"))
    assert len(links) == 3 and all(link.is_symlink() and link.resolve().parent == faces for link in links)


@pytest.mark.parametrize("task", ["audit", "curate"])
@pytest.mark.parametrize(("kind", "told"), [("empty", "is empty"), ("missing", "there is no folder")])
def test_a_folder_without_photos_is_refused(task: str, kind: str, told: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = [] if task == "audit" else ["-o", str(tmp_path / "out")]
    outcome = command(["faces", task, str(tmp_path / kind), *out])
    assert outcome.code == 2 and told in outcome.err and "what to do:" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_in_it_is_never_replaced(command: Command, faces: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    outcome = command(["faces", "curate", str(faces), "-o", str(tmp_path), "--force"])
    assert outcome.code == 2 and "not empty" in outcome.err
    assert listing(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("inside", [".", "chosen"])
def test_a_selection_does_not_go_into_its_own_photos(inside: str, command: Command, faces: Path) -> None:
    before = listing(faces)
    outcome = command(["faces", "curate", str(faces), "-o", str(faces / inside), "--force"])
    assert outcome.code == 2 and "inside of one another" in outcome.err
    assert listing(faces) == before


def test_what_fails_half_way_leaves_the_earlier_selection(
    command: Command, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["faces", "curate", str(faces), "-n", "3", "-o", str(tmp_path / "chosen")]
    assert command(words).code == 0
    before = listing(tmp_path)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(selection, "render_html", full)
    outcome = command([*words, "--force"])
    assert outcome.code == 6 and "No space left" in outcome.err
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--preset", "reference", "--input", "image=image:32:0:1"], "--preset and --input"),
        (["--input", "image=image:32:0:1"], "--onnx"),
        (["--onnx", "model.onnx"], "model.onnx does not exist"),
    ],
)
def test_a_generator_must_be_named_and_described_once(
    options: list[str], told: str, command: Command, faces: Path, tmp_path: Path
) -> None:
    outcome = command(["faces", "curate", str(faces), "-o", str(tmp_path / "out"), *options])
    assert outcome.code == 2 and told in outcome.err


def test_a_generator_that_nobody_describes_is_told_with_an_example(
    command: Command, faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    outcome = command(["faces", "curate", str(faces), "-o", str(tmp_path / "out"), "--onnx", str(tiny_model)])
    assert outcome.code == 2 and "--input image=image:32:0:1" in outcome.err.replace("\n", " ")
