"""`trt-ff swap`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from numpy.typing import NDArray
from workplace import Outcome

from trt_facefusion.faces.decode import read_image

Command = Callable[[list[str]], Outcome]
FED = ["--input", "image=image:32:0:1:template=arcface_128"]


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    """A network of one image, as bare ONNX."""
    return tiny.save(tiny.generator(), tmp_path / "restorer.onnx")


@pytest.fixture
def photo(sample_faces: Path) -> Path:
    return sorted(sample_faces.glob("*.jpg"))[33]


def words(engine: Path, target: Path, out: Path, *more: object) -> list[str]:
    return ["swap", "--engine", str(engine), "--target", str(target), "-o", str(out), *FED, *map(str, more)]


def read(path: Path) -> NDArray[np.uint8]:
    return read_image(path)


def test_a_photo_is_restored_without_a_source(command: Command, restorer: Path, photo: Path, tmp_path: Path) -> None:
    outcome = command(words(restorer, photo, tmp_path / "out.png", "--json"))
    assert outcome.code == 0, outcome.err
    assert outcome.json["faces"] == outcome.json["photos"] == 1 and outcome.json["marked"]
    assert {"detect", "align", "infer", "paste"} <= set(outcome.json["seconds"])
    before, after = read(photo), read(tmp_path / "out.png")
    assert (before != after).any() and np.array_equal(before[0], after[0])
    assert "no certificate" in outcome.err
    assert command(words(restorer, photo, tmp_path / "plain.png", "--provenance", "none")).code == 0
    assert b"facefusion" not in (tmp_path / "plain.png").read_bytes()


def test_a_swap_takes_several_sources(command: Command, sample_faces: Path, photo: Path, tmp_path: Path) -> None:
    net = tiny.save(tiny.generator(embedding=128), tmp_path / "swap.onnx")
    sources = sorted(sample_faces.glob("*.jpg"))[:2]
    fed = ["--input", "identity=embedding"]
    outcome = command(words(net, photo, tmp_path / "out.jpg", "--source", sources[0], "--source", sources[1], *fed))
    assert outcome.code == 0, outcome.err
    assert "1 face in 1 photo" in outcome.out and "time: " in outcome.out
    outcome = command(words(net, photo, tmp_path / "no.jpg", *fed))
    assert outcome.code == 2 and "--source" in outcome.err and not (tmp_path / "no.jpg").exists()


def test_a_folder_is_swapped_and_what_is_left_out_is_said(
    command: Command, restorer: Path, photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(photo.read_bytes())
    cv2.imwrite(str(folder / "sub" / "b.png"), read(photo)[..., ::-1])
    cv2.imwrite(str(folder / "empty.png"), np.zeros((64, 64, 3), np.uint8))
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    outcome = command(words(restorer, folder, tmp_path / "out", "--json"))
    assert outcome.code == 0 and outcome.json["photos"] == 2
    assert sorted(left["file"] for left in outcome.json["left_out"]) == ["bad.jpg", "empty.png"]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == ["a.jpg", "b.png"]
    inside = command(words(restorer, folder, folder / "out"))
    assert inside.code == 2 and "next time" in inside.err


def test_a_video_is_swapped(command: Command, restorer: Path, photo: Path, tmp_path: Path) -> None:
    clips = pytest.importorskip("clips")
    clip = clips.make_clip(tmp_path / "in.mp4", read(photo), 6)
    outcome = command(words(restorer, clip, tmp_path / "out.mp4", "--json"))
    assert outcome.code == 0, outcome.err
    assert outcome.json["video"]["frames"] == outcome.json["faces"] == len(clips.read_frames(tmp_path / "out.mp4")) == 6
    assert json.dumps(outcome.json["shares"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--padding", "1,2"], "not four percentages"),
        (["--mask", "circle"], "no mask 'circle'"),
        (["--faces", "none"], "faces cannot be"),
        (["--provenance", "stamp"], "no provenance"),
        (["--c2pa-cert", "cert.pem"], "both --c2pa-cert and --c2pa-key"),
        (["--detector", "none.onnx"], "none.onnx"),
        (["--reference", "none.jpg"], "none.jpg"),
        (["--converter", "none.onnx"], "converter"),
    ],
)
def test_options_that_cannot_be_are_refused(
    more: list[str], said: str, command: Command, restorer: Path, photo: Path, tmp_path: Path
) -> None:
    outcome = command(words(restorer, photo, tmp_path / "out.png", *more))
    assert outcome.code == 2 and said in outcome.err and not (tmp_path / "out.png").exists()


def test_a_target_is_never_replaced_and_must_be_there(
    command: Command, restorer: Path, photo: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.jpg"
    own.write_bytes(photo.read_bytes())
    outcome = command(words(restorer, own, own))
    assert outcome.code == 2 and "lost" in outcome.err and own.read_bytes() == photo.read_bytes()
    outcome = command(words(restorer, tmp_path / "none.mp4", tmp_path / "out.mp4"))
    assert outcome.code == 2 and "none.mp4" in outcome.err
    outcome = command(words(restorer, own, tmp_path / "out.gif"))
    assert outcome.code == 2 and "not written" in outcome.err
