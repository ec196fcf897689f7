"""The floors are kept: a package, and a module within its package, imports only what stands below it.

docs/architecture.md lists the packages, the docstring at a package's door what is in it; both from the ground up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "trt_facefusion"
DOORS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
LINE = re.compile(r"^    (\w+)(?:/|\.py)?(?:, (\w+)(?:/|\.py)?)*(?=\s{2,}|$)", re.MULTILINE)


def children(package: Path) -> set[str]:
    """The modules and subpackages of ``package``."""
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    return folders | {path.stem for path in package.glob("*.py")} - {"__init__"}


def listed_in_document() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return [name.removesuffix(".py") for name in re.findall(r"^\| `(\w+(?:\.py|/))` \|", text, re.MULTILINE)]


def listed_at_door(package: Path) -> list[str]:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    names: list[str] = []
    for line in LINE.finditer(docstring.rpartition("rom the ground up")[2]):
        names += re.findall(r"\w+", re.sub(r"/|\.py", "", line[0]))
    return names


def imports(path: Path) -> Iterator[str]:
    """Dotted names of this project that a file imports, those of annotations included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trt_facefusion"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("trt_facefusion"))


def upward(package: Path, order: list[str]) -> list[str]:
    """What within ``package`` imports something that ``order`` lists behind it."""
    prefix = ".".join(package.relative_to(ROOT).parts) + "."
    wrong = []
    for place, name in enumerate(order):
        allowed = set(order[: place + 1])
        inside = package / name
        for path in sorted(inside.rglob("*.py")) if inside.is_dir() else [package / f"{name}.py"]:
            used = {dotted.removeprefix(prefix).split(".")[0] for dotted in imports(path) if dotted.startswith(prefix)}
            wrong += [f"{path.relative_to(ROOT)} imports {other}" for other in used & set(order) - allowed]
    return wrong


def test_the_document_lists_every_package_and_they_import_downwards() -> None:
    order = [name.removesuffix("/") for name in listed_in_document()]
    assert sorted(order) == sorted(children(PACKAGE))
    assert not upward(PACKAGE, order)


@pytest.mark.parametrize("package", DOORS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_door_lists_what_is_behind_it_and_it_imports_downwards(package: Path) -> None:
    order = listed_at_door(package)
    assert sorted(order) == sorted(children(package))
    assert not upward(package, order)


def test_only_the_command_line_prints() -> None:
    prints = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "cli" and re.search(r"(?<![\w.])print\(", path.read_text(encoding="utf-8"))
    ]
    assert not prints
