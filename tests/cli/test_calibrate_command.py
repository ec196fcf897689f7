from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import IMAGE, Outcome, Workplace

from trt_facefusion.quantization.calibration import CalibrationTable

Command = Callable[[list[str]], Outcome]
Start = Callable[..., "subprocess.Popen[str]"]

# Writes the state after every batch, and dies by a signal once three are done.
_DIE = (
    "import os, trt_facefusion.quantization.calibration.resume as r; write = r.CalibrationCheckpoint.save; "
    "r.CalibrationCheckpoint.save = lambda self, done, found, now=False: "
    "(write(self, done, found, True), done == 3 and os.kill(os.getpid(), {signal}))"
)


def words(place: Workplace, output: Path | None = None, **changes: object) -> list[str]:
    options = {
        "onnx": place.model,
        "input": IMAGE,
        "calib": place.faces,
        "rule": "max",
        "cache": place.cache,
        **changes,
    }
    result = ["calibrate", "--aligned"]
    for name, value in options.items():
        result += ["--" + name.replace("_", "-"), str(value)]
    return [*result, *(["-o", str(output)] if output is not None else [])]


def test_it_writes_a_table_and_says_what_it_is(command: Command, place: Workplace, tmp_path: Path) -> None:
    output = tmp_path / "tiny.cache"
    data = command([*words(place, output, rule="auto"), "--json"]).json
    assert data["path"] == str(output)
    assert data["faces"] + data["held_out"] == 40 and data["held_out"] > 0
    assert len(CalibrationTable.read(output)) == data["tensors"]
    assert data["choice"]["asked"] == "auto" and data["choice"]["trials"] > 0
    assert not place.cache.exists() and sorted(p.name for p in tmp_path.glob("tiny*")) == ["tiny.cache", "tiny.json"]
    shown = command(words(place, output, rule="auto"))
    assert f"{output}: {data['tensors']} tensors from {data['faces']} faces" in shown.out
    assert "rule for all tensors" in shown.out and "trials" in shown.out
    assert "calibration: taken from" in shown.err


def test_a_build_finds_it_and_one_with_the_file_uses_it(command: Command, place: Workplace, tmp_path: Path) -> None:
    assert command(words(place)).code == 0
    built = command([*place.options(), "--json"])
    assert built.code == 0 and "calibration: taken from" in built.err
    output = tmp_path / "own.cache"
    assert command([*words(place, output), "--all-faces"]).code == 0
    assert command(place.options(calib_cache=output, output=tmp_path / "other")).code == 0


def test_all_faces_are_used_if_that_is_asked_for(command: Command, place: Workplace, tmp_path: Path) -> None:
    data = command([*words(place, tmp_path / "all.cache"), "--all-faces", "--json"]).json
    assert (data["faces"], data["held_out"]) == (40, 0)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_pass_continues_where_it_stopped(
    start: Start, command: Command, place: Workplace, tmp_path: Path, signum: signal.Signals
) -> None:
    whole, output = tmp_path / "whole.cache", tmp_path / "stopped.cache"
    assert command(words(place, whole)).code == 0
    process = start(words(place, output), _DIE.format(signal=int(signum)))
    process.communicate(timeout=120)
    assert process.returncode == (130 if signum is signal.SIGINT else -signal.SIGKILL)
    assert not output.exists() and (tmp_path / "stopped.partial").exists()
    resumed = command(words(place, output))
    assert resumed.code == 0
    assert "continuing a pass that was interrupted, 3 faces are done" in resumed.err
    assert not (tmp_path / "stopped.partial").exists()
    for suffix in (".cache", ".json"):
        assert output.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()


def test_what_belongs_to_another_model_is_not_overwritten(command: Command, place: Workplace, tmp_path: Path) -> None:
    output = tmp_path / "theirs.cache"
    output.write_text("TRT-8601-EntropyCalibration2\nx: 3f800000\n")
    refused = command(words(place, output))
    assert refused.code == 2 and "is no calibration of this model" in refused.err and "--force" in refused.err
    assert output.read_text().startswith("TRT-8601")
    assert command([*words(place, output), "--force"]).code == 0
    assert json.loads(output.with_suffix(".json").read_text())["model"] == "tiny"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"output": "table.json"}, "is not FILE.cache"),
        ({"rule": "nonsense"}, "no calibration rule 'nonsense'"),
        ({"eval": "elsewhere", "all_faces": True}, "both --all-faces and --eval"),
        ({"calib": "/nowhere"}, "/nowhere"),
    ],
)
def test_it_refuses(command: Command, place: Workplace, changes: dict[str, object], says: str) -> None:
    flag = ["--all-faces"] if changes.pop("all_faces", False) else []
    refused = command([*words(place, **changes), *flag])
    assert refused.code == 2 and says in refused.err
