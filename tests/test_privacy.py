"""Nothing is looked up and nothing is kept of what people do: ONNX Runtime's telemetry is off before it is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Stands in for the C library's resolver and writes down what was asked for.
_RESOLVER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    int file = open(getenv("LOOKED_UP"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (node) { if (write(file, node, strlen(node)) < 0) abort(); }
    if (write(file, "\n", 1) < 0) abort();
    close(file);
    return EAI_NONAME;
}
"""
_USE = """
import sys, time
{first}
import onnx, numpy, onnxruntime
from onnx import helper
x, y = (helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
for _ in range({seconds}):
    session.run(None, {{"x": numpy.ones(1, numpy.float32)}})
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for a stand-in of the resolver")
    folder = tmp_path_factory.mktemp("resolver")
    (folder / "look.c").write_text(_RESOLVER)
    words = ["cc", "-shared", "-fPIC", "-o", str(folder / "look.so"), str(folder / "look.c")]
    subprocess.run(words, check=True)
    return folder / "look.so"


def started(root: Path, resolver: Path, first: str, seconds: int) -> subprocess.Popen[bytes]:
    (root / "home").mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if k not in {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}}
    environment |= {"HOME": str(root / "home"), "LOOKED_UP": str(root / "asked"), "LD_PRELOAD": str(resolver)}
    code = _USE.format(first=first, seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def kept(root: Path) -> list[str]:
    return [path.name for path in (root / "home").rglob("*") if path.is_file() and "onnxruntime" in str(path)]


def test_no_name_is_looked_up_and_no_events_are_kept(resolver: Path, tmp_path: Path) -> None:
    runs = {"ours": "from trt_facefusion.cli.app import make_app; make_app()", "bare": ""}
    running = [started(tmp_path / name, resolver, first, 2) for name, first in runs.items()]
    assert [process.wait(120) for process in running] == [0, 0]
    if not kept(tmp_path / "bare"):
        pytest.skip("this onnxruntime keeps no events anyway")
    assert kept(tmp_path / "ours") == [] and not (tmp_path / "ours" / "asked").exists()


@pytest.mark.slow
def test_no_name_is_looked_up_in_a_long_run(resolver: Path, tmp_path: Path) -> None:
    runs = {"ours": "import trt_facefusion", "bare": ""}
    running = [started(tmp_path / name, resolver, first, 90) for name, first in runs.items()]
    assert [process.wait(200) for process in running] == [0, 0]
    if not (tmp_path / "bare" / "asked").exists():
        pytest.skip("this onnxruntime asks for no name anyway")
    assert not (tmp_path / "ours" / "asked").exists()


def test_onnxruntime_is_told_before_it_is_imported() -> None:
    code = "import sys, os, trt_facefusion; assert 'onnxruntime' not in sys.modules; "
    code += "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    for given, expected in ({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0"):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_openvino_is_loaded_without_what_reports_to_its_maker(resolver: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    environment = os.environ | {"LOOKED_UP": str(tmp_path / "asked"), "LD_PRELOAD": str(resolver)}
    ours = "from trt_facefusion.engine.runtime.openvino import import_openvino; import_openvino()"
    found = {}
    for name, first in {"ours": ours, "bare": "import openvino"}.items():
        home = tmp_path / name
        home.mkdir()
        code = f"{first}; import sys, time; time.sleep(1); print('openvino_telemetry' in sys.modules)"
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=environment | {"HOME": str(home)}, capture_output=True, text=True, check=True)
        found[name] = (done.stdout.strip(), [path.name for path in home.iterdir()])
        if name == "ours":
            assert not (tmp_path / "asked").exists()
    assert found["ours"] == ("False", [])
    if found["bare"][0] == "False":
        pytest.skip("this OpenVINO reports nothing anyway")
