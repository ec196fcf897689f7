from __future__ import annotations

import ast
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from twin.builder import VERSION_10, make_twin
from twin.uploader import A10G

import trt_facefusion
from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.errors import BackendUnavailableError, BadInputError


def hide(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    real = importlib.import_module

    def importing(name: str, package: str | None = None) -> ModuleType:
        if name == hidden:
            raise ModuleNotFoundError(f"No module named {hidden!r}")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", importing)


@pytest.fixture
def without_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "tensorrt_rtx")


@pytest.fixture(params=["openvino", "onnxruntime"])
def fastest_on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend that a CPU gets, with OpenVINO and without."""
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    else:
        hide(monkeypatch, "openvino")
    return str(request.param)


@pytest.mark.parametrize("name", registry.list_names())
def test_backends_are_known_by_their_names(name: str) -> None:
    assert registry.get_backend(name).name == name


def test_auto_takes_rtx_for_a_gpu() -> None:
    pytest.importorskip("tensorrt_rtx")
    choice = registry.select_backend("auto", "sm86")
    assert (choice.backend.name, choice.target) == ("tensorrt-rtx", "sm86")
    assert {"tensorrt-rtx", "onnxruntime"} <= set(registry.available())


def test_auto_takes_openvino_for_the_cpu_where_it_is_installed(fastest_on_cpu: str) -> None:
    assert registry.select_backend("auto", "cpu").backend.name == fastest_on_cpu
    assert ("openvino" in registry.available()) == (fastest_on_cpu == "openvino")


def test_openvino_that_is_missing_but_asked_for_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "openvino")
    with pytest.raises(BackendUnavailableError) as error:
        registry.select_backend("openvino", "cpu")
    assert "pip install 'openvino" in error.value.remedy


@pytest.mark.usefixtures("without_rtx")
def test_auto_without_rtx_falls_back_and_says_how_to_install_it(fastest_on_cpu: str) -> None:
    choice = registry.select_backend("auto", "sm86")
    assert (choice.backend.name, choice.target) == (fastest_on_cpu, "cpu")
    assert "pip install 'tensorrt-rtx" in choice.reason
    assert "tensorrt-rtx" not in registry.available()


@pytest.mark.usefixtures("without_rtx")
def test_rtx_that_is_missing_but_asked_for_is_an_error() -> None:
    with pytest.raises(BackendUnavailableError) as error:
        registry.select_backend("tensorrt-rtx", "sm86")
    assert "pip install" in error.value.remedy


def test_tensorrt_that_is_missing_but_asked_for_says_how_to_install_it() -> None:
    with pytest.raises(BackendUnavailableError) as error:
        registry.select_backend("tensorrt", "sm86")
    assert "pip install" in error.value.remedy


@pytest.fixture
def with_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = make_twin()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(registry, "BACKENDS", (TensorRt(lambda: A10G), *registry.BACKENDS[1:]))


@pytest.mark.usefixtures("with_tensorrt")
def test_auto_takes_tensorrt_for_the_gpu_of_this_machine_only() -> None:
    assert registry.select_backend("auto", "sm86").backend.name == "tensorrt"
    assert registry.select_backend("auto", "sm89").backend.name != "tensorrt"
    assert registry.select_backend("auto", "cpu").target == "cpu"
    assert registry.available()["tensorrt"] == VERSION_10


@pytest.mark.usefixtures("with_tensorrt")
def test_the_default_target_is_this_machines_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    hopper = replace(A10G, compute_capability=(9, 0))
    monkeypatch.setattr(registry, "BACKENDS", (TensorRt(lambda: hopper), *registry.BACKENDS[1:]))
    assert registry.default_target("auto") == "sm90"
    assert registry.select_backend("auto", "sm90").backend.name == "tensorrt"
    assert registry.default_target("tensorrt-rtx") == registry.DEFAULT_TARGET
    assert registry.default_target("onnxruntime") == "cpu"


def test_without_tensorrt_the_default_target_is_the_a10g() -> None:
    assert registry.default_target("auto") == "sm86"


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(BackendUnavailableError) as error:
        registry.get_backend("tvm")
    assert "onnxruntime" in error.value.remedy


@pytest.mark.parametrize(("name", "target"), [("auto", "sm90"), ("auto", "a10g"), ("onnxruntime", "tpu")])
def test_an_unknown_target_lists_the_known_ones(name: str, target: str) -> None:
    with pytest.raises(BadInputError) as error:
        registry.select_backend(name, target)
    assert "sm86" in error.value.remedy


@pytest.mark.usefixtures("with_tensorrt")
@pytest.mark.parametrize("name", ["auto", "onnxruntime"])
def test_the_gpu_is_not_asked_for_an_engine_of_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(registry, "BACKENDS", (TensorRt(lambda: asked.append(1)), *registry.BACKENDS[1:]))
    assert registry.select_backend(name, "cpu").target == "cpu"
    assert not asked


def test_no_code_compares_a_backends_name() -> None:
    """Capabilities are fields: whoever asks for a name would have to be changed for a new backend."""
    names = set(registry.list_names())
    package = Path(trt_facefusion.__file__).parent
    compared = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(isinstance(part, ast.Constant) and part.value in names for part in ast.walk(node))
    ]
    assert not compared
