"""The command line in this process and in one of its own, on a tiny model and tiny faces."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from workplace import Outcome, Workplace

from trt_facefusion.cli.main import run
from trt_facefusion.inference import embedders as embedders_module

_QUICK = (
    f"import sys; sys.path.insert(0, {str(Path(tiny.__file__).parent)!r}); import tiny; "
    "import trt_facefusion.inference.embedders as embedders; embedders.DlibEmbedder = tiny.Glance"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.generator(), tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures") / "faces", range(40))


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, tiny_faces: Path) -> Workplace:
    return Workplace(tmp_path, tiny_model, tiny_faces)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], Outcome]:
    """Runs a command line in this process, with an embedder that takes no time."""
    monkeypatch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)

    def execute(words: list[str]) -> Outcome:
        capsys.readouterr()
        code = run(words)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return execute


@pytest.fixture
def start() -> Any:
    """Starts a command line in a process of its own, ``before`` run first; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def launch(words: list[str], before: str = "pass", **options: Any) -> subprocess.Popen[str]:
        code = f"{_QUICK}; {before}; sys.argv[0] = 'trt-ff'; from trt_facefusion.cli.main import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
