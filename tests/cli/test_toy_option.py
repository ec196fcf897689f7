"""An option that several commands share is one field of a group: the recipe in docs/architecture.md, followed here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trt_facefusion

PACKAGE = Path(trt_facefusion.__file__).parent
GROUP = "class EffortOptions:"
FIELD = """\
    toy_level: Annotated[int, typer.Option(min=0, help="A toy.", rich_help_panel=ACCURACY)] = 7
"""
ASKED = """
import json
import typer
from pathlib import Path
from trt_facefusion.build.rebuild_command import write_arguments
from trt_facefusion.build.settings import BuildSettings, compute_engine_key
from trt_facefusion.cli import build, calibrate, plan
from trt_facefusion.cli.app import make_app
from trt_facefusion.types import Precision

options = {}
for name, command in typer.main.get_command(make_app()).commands.items():
    options[name] = [text for parameter in getattr(command, "params", []) for text in parameter.opts]
read = {}
def keep(command):
    def stop(settings, *rest):
        read[command] = settings
        raise SystemExit
    return stop
build.build, plan.make_plan, calibrate.calibrate = (keep(name) for name in ("build", "plan", "calibrate"))
for words in (["build", "--int8"], ["plan"], ["calibrate"]):
    try:
        make_app()([*words, "--calib", "faces", "--toy-level", "3"], standalone_mode=False)
    except SystemExit:
        pass
settings = read["build"]
asked = ("source", "preset", "precisions", "calib")
plain = BuildSettings(**{name: getattr(settings, name) for name in asked})
key = lambda settings: compute_engine_key(settings, {}, Precision.INT8)
print(json.dumps({
    "options": options,
    "levels": {name: settings.toy_level for name, settings in read.items()},
    "arguments": write_arguments(settings),
    "keys": [key(plain), key(settings)],
}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a copy of the package says in which one line was added to one file."""
    root = tmp_path_factory.mktemp("toy")
    package = root / "trt_facefusion"
    package.mkdir()
    for entry in PACKAGE.iterdir():
        if entry.name not in {"build", "__pycache__"}:
            (package / entry.name).symlink_to(entry)
    shutil.copytree(PACKAGE / "build", package / "build", ignore=shutil.ignore_patterns("__pycache__"))
    file = package / "build" / "options.py"
    head, group, tail = file.read_text().partition(GROUP)
    first = tail.index("    effort: ")
    file.write_text(head + group + tail[:first] + FIELD + tail[first:])
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_command_with_the_group_has_the_option(answers: dict[str, Any]) -> None:
    with_toy = {command for command, options in answers["options"].items() if "--toy-level" in options}
    with_group = {command for command, options in answers["options"].items() if "--effort" in options}
    assert with_toy == with_group == {"build", "calibrate", "compare", "plan"}


def test_the_settings_have_its_value(answers: dict[str, Any]) -> None:
    assert answers["levels"] == {"build": 3, "plan": 3, "calibrate": 3}


def test_the_command_line_in_the_manifest_has_it(answers: dict[str, Any]) -> None:
    assert answers["arguments"][-2:] == ["--toy-level", "3"]


def test_it_is_part_of_the_key(answers: dict[str, Any]) -> None:
    plain, changed = answers["keys"]
    assert plain != changed
