"""`engines`, `inspect`, `presets`, help and version, and how it all looks on a terminal."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from rich.console import Console
from workplace import Outcome, Workplace

from trt_facefusion import __version__
from trt_facefusion.cli import console
from trt_facefusion.cli.main import run
from trt_facefusion.errors import FacesError
from trt_facefusion.inference import embedders as embedders_module
from trt_facefusion.model.presets import PRESETS

Command = Callable[[list[str]], Outcome]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_faces: Path) -> Workplace:
    """A place where an engine was built, which no test changes."""
    place = Workplace(tmp_path_factory.mktemp("built"), tiny_model, tiny_faces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        assert run(place.options()) == 0
    return place


@pytest.fixture
def engine(place: Workplace, built: Workplace) -> Path:
    """The folder of an engine, a test's own."""
    shutil.copytree(built.output, place.output)
    (manifest,) = place.output.glob("*/*/manifest.json")
    return manifest.parent


def test_engines_lists_what_is_stored(command: Command, place: Workplace, engine: Path) -> None:
    outcome = command(["engines", "--output", str(place.output)])
    assert outcome.code == 0 and "tiny" in outcome.out and "100%" in outcome.out
    listed = command(["engines", "--output", str(place.output), "--json"]).json
    (entry,) = listed["engines"]
    assert listed["schema"] == 1 and entry["path"] == str(engine) and entry["accuracy"]["faces"] == 8


def test_engines_says_what_an_engine_stands_in_for(command: Command, place: Workplace) -> None:
    command(place.options(max_ssim_drop=0, repairs=0))
    assert "in place of" in command(["engines", "--output", str(place.output)]).out


def test_engines_names_a_damaged_one_and_how_to_mend_it(command: Command, place: Workplace, engine: Path) -> None:
    (engine / "engine.onnx").write_bytes(b"short")
    outcome = command(["engines", "--output", str(place.output)])
    assert outcome.code == 6 and "damaged" in outcome.out
    assert f"{engine / 'engine.onnx'} cannot be used" in outcome.out and "--force" in outcome.out
    assert "error" in command(["engines", "--output", str(place.output), "--json"]).json["engines"][0]


def test_names_with_brackets_are_shown_as_they_are(command: Command, place: Workplace, tiny_model: Path) -> None:
    model = shutil.copy(tiny_model, place.root / "net[red]2.onnx")
    assert "net[red]2 on cpu" in command(place.options(onnx=model)).out
    assert "net[red]2" in command(["engines", "--output", str(place.output)]).out
    (engine,) = place.output.glob("*/*/engine.onnx")
    assert "net[red]2, sha256" in command(["inspect", str(engine)]).out


def test_engines_without_a_store(command: Command, tmp_path: Path) -> None:
    outcome = command(["engines", "--output", str(tmp_path / "nope"), "--json"])
    assert outcome.code == 6 and "build an engine first" in outcome.json["error"]["remedy"]
    assert not (tmp_path / "nope").exists()
    assert "no engines in" in command(["engines", "--output", str(tmp_path)]).out


def test_inspect_shows_one_engine_by_folder_or_file(command: Command, engine: Path) -> None:
    outcome = command(["inspect", str(engine)])
    assert outcome.code == 0
    for text in ("int8 for cpu by onnxruntime", "rule max", "8 faces", "any CPU", "layers with MACs", "block0.conv1"):
        assert text in outcome.out
    assert "made from" in command(["inspect", str(engine), "--kernels"]).out
    assert command(["inspect", str(engine / "engine.onnx")]).out == outcome.out
    manifest = command(["inspect", str(engine), "--json"]).json
    assert manifest["schema"] == 2 and manifest["int8_kernels"]["planned"] == 7


def test_inspect_of_a_damaged_engine_tells_the_command_that_rebuilds_it(command: Command, engine: Path) -> None:
    data = (engine / "engine.onnx").read_bytes()
    (engine / "engine.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    outcome = command(["inspect", str(engine), "--json"])
    assert (outcome.code, outcome.json["error"]["kind"]) == (6, "store")
    assert "its content is not what was stored" in outcome.json["error"]["message"]
    remedy = outcome.json["error"]["remedy"]
    assert "trt-ff build --onnx" in remedy and "--int8 --target cpu --backend onnxruntime --force" in remedy


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 99}', b"\xff\xfe"])
def test_inspect_of_a_damaged_manifest(command: Command, engine: Path, content: bytes) -> None:
    (engine / "manifest.json").write_bytes(content)
    outcome = command(["inspect", str(engine), "--json"])
    assert outcome.code == 6 and "Traceback" not in outcome.err
    assert "--force" in outcome.json["error"]["remedy"]


def test_inspect_of_no_engine(command: Command, tmp_path: Path) -> None:
    outcome = command(["inspect", str(tmp_path / "nope"), "--json"])
    assert outcome.code == 6 and "holds no engine" in outcome.json["error"]["message"]


def test_presets_lists_all_of_them(command: Command) -> None:
    outcome = command(["presets"])
    assert outcome.code == 0 and all(name in outcome.out for name in PRESETS)


def test_version(command: Command) -> None:
    outcome = command(["--version"])
    assert (outcome.code, outcome.out) == (0, f"trt-facefusion {__version__}\n")


def test_help_documents_options_and_exit_codes(command: Command) -> None:
    assert "build" in command(["--help"]).out
    outcome = command(["build", "--help"])
    assert outcome.code == 0
    for text in ("--int8", "--calib", "--json", "else the bundled one", "else 0.01", "NAME=image:SIZE:MIN:MAX"):
        assert text in " ".join(outcome.out.replace("│", " ").split())
    for code in ("0  all right", "2  bad input", "3  accuracy gate", "6  the store", "141  whoever", "130  inter"):
        assert code in outcome.out


def test_no_command_shows_the_help(command: Command) -> None:
    outcome = command([])
    assert outcome.code == 2 and "Usage:" in outcome.out and "error" not in outcome.err


def test_a_reader_that_went_away_is_no_crash(engine: Path, place: Workplace) -> None:
    code = "from trt_facefusion.cli.main import main; main()"
    words = [sys.executable, "-c", code, "engines", "--json", "--output", str(place.output)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 141


@pytest.mark.parametrize("width", [80, 120])
def test_long_messages_wrap_by_words_under_their_own_start(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    screen = Console(force_terminal=True, width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "err", screen)
    console.print_error(FacesError("a message of many words " * 8, "a remedy " * 15), as_json=False)
    lines = screen.export_text().rstrip().splitlines()
    assert all(len(line) <= width for line in lines) and len(lines) > 3
    assert lines[0].startswith("error: a message") and lines[1].startswith("       ")
    assert all(word in {"a", "message", "of", "many", "words"} for word in lines[1].split())


@pytest.mark.parametrize("width", [80, 120])
def test_tables_cut_nothing_off(
    command: Command, place: Workplace, monkeypatch: pytest.MonkeyPatch, width: int, engine: Path
) -> None:
    monkeypatch.setattr(console, "out", Console(width=width))
    for words in (["engines", "--output", str(place.output)], ["inspect", str(engine)], ["presets"], place.options()):
        outcome = command(words)
        assert outcome.code == 0 and "…" not in outcome.out
        assert all(len(line) <= width for line in outcome.out.splitlines() if str(place.root) not in line)


def test_json_has_no_colour_on_a_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    outcome = command(["build", "--json"])
    assert "\x1b" not in outcome.out and json.loads(outcome.out)["error"]["kind"] == "bad_input"
