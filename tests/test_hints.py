"""Every hint works as it is printed: what `pip install` names can be had, and `trt-ff` has the commands and options."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
from packaging.requirements import Requirement

from trt_facefusion import errors
from trt_facefusion.cli.app import make_app
from trt_facefusion.engine.backends.registry import BACKENDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
KNOWN = {"lpips"} | {Requirement(text).name for texts in (PROJECT["dependencies"], *EXTRAS.values()) for text in texts}
WHEELS = re.compile(r"(tensorrt(-rtx)?|\?)-cu(12|13|\?)")


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """Every string that the code holds, docstrings aside; what an f-string fills in is ``?``."""
    return tuple(
        (f"{path.relative_to(ROOT)}:{line}", text)
        for path in (ROOT / "trt_facefusion").rglob("*.py")
        for line, text in _iterate_strings(path)
    )


def _iterate_strings(path: Path) -> Iterator[tuple[int, str]]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    inner |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "?" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def test_what_pip_is_told_to_install_is_on_an_index() -> None:
    seen = 0
    for where, text in texts():
        assert "trt-facefusion[" not in text, where
        for words in re.findall(r"pip install ((?:[^`;(#,]|,(?=[<>=\d]))+)", text):
            for word in words.replace("'", "").split():
                seen += 1
                name = re.split(r"[<>=]", word)[0]
                assert word.startswith("-") or name in {"?", "??"} or name in KNOWN or WHEELS.fullmatch(name), where
    assert seen > 5


def test_the_hints_of_an_extra_are_its_requirements() -> None:
    for extra, wanted in errors._TESTED.items():
        assert list(wanted) == [text.partition(";")[0] for text in EXTRAS[extra]]
        assert {Requirement(text) for text in errors.requirements(extra)} == {Requirement(text) for text in wanted}
        assert errors.pip_install(extra).count("'") == 2 * len(wanted)


def test_every_extra_that_is_hinted_at_exists() -> None:
    named = {backend.library.extra for backend in BACKENDS} - {""}
    for path in (ROOT / "trt_facefusion").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "pip_install":
                named |= {c.value for c in ast.walk(node.args[0]) if isinstance(c, ast.Constant)} - {"tensorrt"}
    assert named >= {"torch", "gpu", "rtx"} and named <= set(EXTRAS)


def test_commands_and_options_of_trt_ff_exist() -> None:
    command = typer.main.get_command(make_app())
    seen = 0
    for where, text in texts():
        for words in re.findall(r"`trt-ff ([^`]+)`|trt-ff ((?:faces |cache )?(?:engines|build|cache)\b[^`\"]*)", text):
            node, rest = command, "".join(words).split()
            while rest and hasattr(node, "commands") and rest[0] in node.commands:
                node = node.commands[rest.pop(0)]
            assert not hasattr(node, "commands") or not rest, f"{where}: {text}"
            known = {name for parameter in node.params for name in parameter.opts}
            assert {word for word in rest if re.fullmatch(r"--[a-z][a-z-]*", word)} <= known, f"{where}: {text}"
            seen += 1
    assert seen > 5


def test_every_option_that_a_remedy_names_is_one() -> None:
    known: set[str] = {
        "--help",
        "--gpus",
        "--force-reinstall",
        "--no-cache-dir",
        "--no-deps",
        "--rm",
        "--upgrade",
        "--version",
    }
    pending = [typer.main.get_command(make_app())]
    while pending:
        node = pending.pop()
        known |= {name for parameter in node.params for name in (*parameter.opts, *parameter.secondary_opts)}
        pending += getattr(node, "commands", {}).values()
    for where, text in texts():
        if where.startswith("trt_facefusion/profiling/trtexec"):  # trtexec's own
            continue
        if " " in text:
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w=]*\?)", text))
            assert named <= known, f"{where}: {named - known}"
