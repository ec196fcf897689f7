"""The house keeps its floors: a room imports only from rooms that docs/architecture.md lists above it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "trt_facefusion"
SHARED = {"errors", "types", "files", "__init__"}


def rooms_in_the_document() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    return re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)


def imported_rooms(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "trt_facefusion")
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    parts = [module.split(".") for module in modules]
    return {names[1] for names in parts if names[0] == "trt_facefusion" and len(names) > 1} - SHARED


def test_the_document_lists_every_room() -> None:
    assert sorted(rooms_in_the_document()) == sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists())


def test_imports_only_go_up_the_list() -> None:
    order = rooms_in_the_document()
    wrong = []
    for path in PACKAGE.glob("*/*.py"):
        room = path.parent.name
        allowed = set(order[: order.index(room) + 1])
        wrong += [
            f"{path.relative_to(ROOT)} imports {other}" for other in imported_rooms(path) - allowed if other in order
        ]
    assert not wrong


def test_only_the_command_line_prints() -> None:
    prints = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "cli" and re.search(r"(?<![\w.])print\(", path.read_text())
    ]
    assert not prints
