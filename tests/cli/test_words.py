"""Names on any screen: letter for letter, in any encoding and width, and never in a traceback."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import FILES, manifest
from rich.table import Table
from workplace import Outcome, Workplace

from trt_facefusion.cli import console
from trt_facefusion.cli.main import run
from trt_facefusion.engine.store.manifest import Fallback
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import FacesError
from trt_facefusion.text import printable

Command = Callable[[list[str]], Outcome]
MAIN = [sys.executable, "-c", "import sys; sys.argv[0] = 'trt-ff'; from trt_facefusion.cli.main import main; main()"]
NAMES = (
    "attn:key:0",
    "[/fp16]",
    "[/x]",
    "[bold red]r[/]",
    "net\\",
    "e\x1b]0;owned\x07",
    "a\nerror: b",
    "\u202egpj.exe",
)
PLAN = """schema: 1
nodes:
- {name: 'attn:key:0', op: Conv, precision: int8, reason: '[/fp16] [/x] :key:', macs: 5}
- {name: 'b', op: '[/op]', precision: fp16, reason: "\\e[31m red", macs: 4}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines whose manifests hold what a terminal must not act upon."""
    root = tmp_path_factory.mktemp("words") / "engines"
    for number, name in enumerate((*NAMES, "caf\udce9", "顔-Übung")):
        steps = (Fallback(name, name, name),)
        made = manifest(model=name, backend_version=str(number), fallback=steps, warnings=(name,), verified_with=name)
        Store(root).save(replace(made, command=("--calib", name)), {**FILES, "plan.yaml": PLAN.encode()})
    return root


@given(st.text(st.characters(), max_size=40))
def test_any_text_is_shown_letter_for_letter(text: str) -> None:
    for force in (True, False):
        screen = console.Screen(width=1000, file=io.StringIO(), force_terminal=force, color_system=None)
        screen.print(text, soft_wrap=True)
        table = Table(show_header=False, box=None, padding=0)
        table.add_row(text)
        screen.print(table)
        screen.print(console.joined(console.styled(text, "bold"), text), soft_wrap=True)
        shown = screen.file.getvalue().split("\n")  # type: ignore[attr-defined]
        assert shown[0] == printable(text) and shown[2] == printable(text) * 2
        assert shown[1].rstrip() == printable(text).rstrip()


@pytest.mark.parametrize("name", NAMES)
def test_an_error_shows_names_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error(FacesError(f"there is {name} here", f"remove {name}"), as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["message"] == f"there is {name} here" and out.isascii()
    assert err == f"error: there is {printable(name)} here\nwhat to do: remove {printable(name)}\n"


def _run(words: list[Any], environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, capture_output=True, env=os.environ | environment, timeout=60, check=False)


ENGINES = ["engines", "--output"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "latin-1", "utf-16"])
@pytest.mark.parametrize("columns", ["40", "200"])
def test_engines_are_listed_in_any_encoding_and_width(store: Path, encoding: str, columns: str) -> None:
    done = _run([*MAIN, *ENGINES, str(store)], {"PYTHONIOENCODING": encoding, "COLUMNS": columns})
    shown = done.stdout.decode(encoding)
    assert done.returncode == 0 and done.stderr == b"" and "\x1b" not in shown and "\u202e" not in shown
    flat = "".join(shown.split())
    for name in ("attn:key:0", "[/fp16]", "[/x]", "[boldred]r[/]", r"e\x1b]0;owned\x07", r"a\nerror:b", r"caf\xe9"):
        assert name in flat, name
    assert ("顔-Übung" if encoding.startswith("utf") else r"\u9854-") in flat
    assert "…" not in shown and "..." not in shown


@pytest.mark.parametrize("environment", [{"LANG": "C", "LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}])
def test_a_locale_without_letters_and_a_path_that_is_not_utf8(store: Path, environment: dict[str, str]) -> None:
    odd = os.fsencode(store.parent) + b"/caf\xe9\n"
    words = [*map(os.fsencode, [*MAIN, *ENGINES]), odd]
    for more in ([], [b"--json"]):
        done = _run([*words, *more], environment)
        assert done.returncode == 6 and b"Traceback" not in done.stderr
        assert rb"caf\xe9\n" in done.stderr and len(done.stderr.splitlines()) == 2
        assert not more or json.loads(done.stdout)["error"]["kind"] == "store"


def test_an_engine_is_inspected_whatever_its_manifest_holds(store: Path, command: Command) -> None:
    for folder, _ in Store(store).list():
        outcome = command(["inspect", str(folder), "--kernels"])
        assert outcome.code == 0, outcome.err
        assert not set(outcome.out) & {"\x1b", "\x07", "\u202e"}
        flat = "".join(outcome.out.replace("│", "").replace("┃", "").split())
        assert "attn:key:0" in flat and "[/fp16][/x]:key:" in flat and r"\x1b[31mred" in flat and "[/op]" not in flat
        json.loads(command(["inspect", str(folder), "--json"]).out)


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_narrow_terminals_lose_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, width: int, command: Command
) -> None:
    monkeypatch.setattr(console, "out", console.Screen(width=width))
    folders = [str(folder) for folder, _ in Store(store).list()]
    for words in ([*ENGINES, str(store)], ["inspect", folders[0], "--kernels"], ["presets"], ["doctor", "--quick"]):
        outcome = command(words)
        assert "…" not in outcome.out and outcome.code in {0, 4}
        lines = [line for line in outcome.out.splitlines() if str(store) not in line]
        assert max(map(len, lines)) <= width
    listed = "".join(command([*ENGINES, str(store)]).out.split())
    assert "attn:key:0" in listed and listed.count("2026-01-02") == len(folders)


@pytest.mark.parametrize(("name", "shown"), [("n[x]:key:\x1b[31m", r"n[x]:key:\x1b[31m"), ("caf\udce9", r"caf\xe9")])
def test_a_build_of_odd_names_is_shown_as_it_is(
    command: Command, place: Workplace, tiny_model: Path, tiny_faces: Path, name: str, shown: str
) -> None:
    model = shutil.copy(tiny_model, place.root / f"{name}.onnx")
    faces = Path(shutil.copytree(tiny_faces, place.root / f"{name} faces"))
    for number, photo in enumerate(sorted(faces.iterdir())):
        photo.rename(faces / f"{name} {number}{photo.suffix}")
    outcome = command(place.options(onnx=model, calib=faces))
    assert outcome.code == 0, outcome.err
    assert f"{shown} on cpu" in outcome.out and "\x1b" not in outcome.out + outcome.err
    (engine,) = place.output.glob("*/*/engine.onnx")
    assert f"{shown}, sha256" in command(["inspect", str(engine)]).out
    assert command(["report", str(place.root / "reports"), "--json"]).code == 0
    (page,) = place.root.glob("reports/*/*/report.html")
    assert f"{shown} " in page.read_text("utf-8")
    again = command(place.options(onnx=model, calib=faces, json=True))
    assert again.json["engines"][0]["up_to_date"] and again.out.isascii()


@pytest.mark.parametrize("words", [["--output", ""], ["--output="], ["--output", "  "], [""]])
def test_empty_values_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["engines", *words, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "is empty" in error["message"] and error["kind"] == "bad_input"
    assert "--output" in error["message"] or words == [""]
