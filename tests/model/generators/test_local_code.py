"""What of a factory's code decides whether an engine is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trt_facefusion.model.export import CheckpointSource
from trt_facefusion.model.generators.local_code import collect_local_code, find_unseen_modules

TREE = {
    "nets/__init__.py": "",
    "nets/swap.py": "import torch\nfrom .parts import blocks\nfrom .parts.norm import *\nimport helpers.deep as deep\n"
    "def build():\n    from lazy_one import thing\n    import importlib\n    importlib.import_module('nets.late')\n",
    "nets/parts/__init__.py": "from . import more",
    "nets/parts/blocks.py": "import json",
    "nets/parts/norm.py": "from ..parts import blocks",
    "nets/parts/more.py": "",
    "nets/late.py": "",
    "nets/unused.py": "",
    "helpers/deep.py": "import nets.swap  # in a circle, and in a package without __init__",
    "lazy_one.py": "def thing(): pass",
    "other.py": "",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "net.pth").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_module_that_the_import_brings_in_is_found_and_no_other(tree: Path) -> None:
    found = {name for name in collect_local_code("nets.swap", tree) if "installed" not in name}
    assert found == set(TREE) - {"nets/unused.py", "other.py"}


@pytest.mark.parametrize("name", sorted(set(TREE) - {"nets/unused.py", "other.py"}))
def test_a_change_in_any_of_them_changes_the_digest(tree: Path, name: str) -> None:
    source = CheckpointSource(tree / "net.pth", "nets.swap:build")
    before = source.digest()
    (tree / name).write_text(TREE[name] + "\nchanged = 1\n")
    assert source.digest() != before
    (tree / name).write_text(TREE[name])
    assert source.digest() == before


def test_what_is_not_imported_changes_nothing(tree: Path) -> None:
    source = CheckpointSource(tree / "net.pth", "nets.swap:build")
    before = source.digest()
    (tree / "other.py").write_text("changed = 1")
    assert source.digest() == before


def test_a_new_file_that_now_goes_first_changes_the_digest(tree: Path) -> None:
    (tree / "nets" / "swap.py").write_text("import not_there_yet")
    source = CheckpointSource(tree / "net.pth", "nets.swap:build")
    before = source.digest()
    (tree / "not_there_yet.py").write_text("")
    assert source.digest() != before


def test_another_set_of_weights_is_another_model(tree: Path) -> None:
    digests = {CheckpointSource(tree / "net.pth", "nets.swap:build", key).digest() for key in (None, "ema", "net")}
    assert len(digests) == 3


def test_nothing_is_run_and_broken_code_is_left_to_the_import(tree: Path) -> None:
    (tree / "nets" / "late.py").write_text("raise SystemExit")
    (tree / "lazy_one.py").write_text("def (")
    before = set(sys.modules)
    collect_local_code("nets.swap", tree)
    assert not {name for name in set(sys.modules) - before if name.startswith(("nets", "helpers", "lazy"))}


def test_installed_packages_count_by_version_and_a_factory_of_one_by_its_code(tree: Path) -> None:
    pytest.importorskip("torch")
    assert "torch (installed)" in collect_local_code("nets.swap", tree)
    assert "yaml/loader.py" in collect_local_code("yaml", tree)


def test_modules_that_cannot_be_seen_in_the_text_are_told_after_the_import(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "hidden_net.py").write_text("import importlib\nimportlib.import_module('oth' + 'er')\nimport lazy_one\n")
    known = collect_local_code("hidden_net", tree)
    monkeypatch.syspath_prepend(tree)
    __import__("hidden_net")
    try:
        assert find_unseen_modules(known, tree) == ["other"]
    finally:
        for name in ("hidden_net", "other", "lazy_one"):
            sys.modules.pop(name, None)
