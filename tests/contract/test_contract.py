"""Holds every use of TensorRT in the adapters, and the twin, against the surface of the real library."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from twin import runtime as twin_runtime
from twin import surface as twin_surface
from twin.builder import VERSION_10, VERSION_11, make_twin
from twin.nets import SHAPES, Case, batches
from twin.uploader import A10G, HostUploader

import trt_facefusion.engine.backends
import trt_facefusion.engine.runtime
from contract.surface_data import extract, load
from contract.uses import Use, check, read_sources
from trt_facefusion.engine.backends.base import BuildOptions, BuildRequest, WeakTyping
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.types import Precision

SOURCES = read_sources(Path(trt_facefusion.engine.backends.__file__).parent) | {
    f"runtime/{name}": text for name, text in read_sources(Path(trt_facefusion.engine.runtime.__file__).parent).items()
}
_ALL = [
    "callbacks.py",
    "session.py",
    "tensorrt_typed.py",
    "runtime/engine_file.py",
    "runtime/layer_times.py",
]
_BOTH = [*_ALL, "inspector.py", "tensorrt_config.py"]
_WEAK = ["calibrator.py", "constraints.py", "scales.py", "tensorrt_weak.py"]
FILES = {
    "tensorrt_10.16": [*_BOTH, *_WEAK],
    "tensorrt_11.4": _BOTH,
    "tensorrt_rtx_1.7": [*_ALL, "tensorrt_rtx.py"],
}
FEWEST = {"tensorrt_10.16": 100, "tensorrt_11.4": 60, "tensorrt_rtx_1.7": 30}
"""Distinct members that are used at least; the collector would otherwise be free to find nothing."""

BINDINGS = Path(os.environ.get("TRT_FF_BINDINGS", Path.home() / ".cache/trt-facefusion/bindings"))


def collected(name: str) -> list[Use]:
    uses, errors = check(SOURCES, FILES[name], load(name))
    assert errors == []
    return uses


@pytest.mark.parametrize("name", FILES)
def test_everything_the_adapters_use_exists(name: str) -> None:
    uses = collected(name)
    distinct = {(use.owner, use.member) for use in uses}
    print(f"{name}: {len(uses)} uses of {len(distinct)} members")  # noqa: T201
    assert len(distinct) >= FEWEST[name]


def test_every_file_that_speaks_of_tensorrt_is_checked() -> None:
    assert set(SOURCES) == {file for files in FILES.values() for file in files}


class _Misspell(ast.NodeTransformer):
    def __init__(self, use: Use) -> None:
        self.use, self.done = use, 0

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.lineno == self.use.line and node.attr == self.use.member and self.use.kind != "override":
            node.attr, self.done = node.attr + "x", self.done + 1
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        if node.lineno == self.use.line and node.name == self.use.member and self.use.kind == "override":
            node.name, self.done = node.name + "x", self.done + 1
        return node


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_single_use_fails_when_it_is_misspelt(name: str) -> None:
    surface = load(name)
    places = {(use.file, use.line, use.owner, use.member): use for use in collected(name) if use.kind != "call"}
    for use in places.values():
        tree = ast.parse(SOURCES[use.file])
        misspell = _Misspell(use)
        changed = ast.unparse(misspell.visit(tree))
        assert misspell.done, use
        _, errors = check({**SOURCES, use.file: changed}, [use.file], surface)
        assert errors, use


@pytest.mark.parametrize(
    ("file", "right", "wrong", "complaint"),
    [
        ("tensorrt_config.py", "timing_cache(stored_timings)", "timing_cache()", "does not take these arguments"),
        ("tensorrt_config.py", "timing_cache(stored_timings)", "timing_cache(stored_timings, 1)", "these arguments"),
        ("tensorrt_config.py", "set_flag(trt", "set_flag(bit=trt", "these arguments"),
        ("callbacks.py", "def step_complete(self, phase_name: str, step", "def step_complete(self, step", "other"),
        ("constraints.py", "layer.precision = ", "layer.type = ", "cannot be set"),
    ],
)
def test_wrong_arguments_fail(file: str, right: str, wrong: str, complaint: str) -> None:
    assert right in SOURCES[file]
    _, errors = check({**SOURCES, file: SOURCES[file].replace(right, wrong)}, [file], load("tensorrt_10.16"))
    assert any(complaint in error for error in errors)


@pytest.mark.parametrize(
    "member", ["precision", "set_output_type", "int8_calibrator", "set_calibration_profile", "FP16", "INT8"]
)
def test_what_version_11_removed_is_used_for_version_10_only(member: str) -> None:
    _, errors = check(SOURCES, _WEAK, load("tensorrt_11.4"))
    assert any(f"has no {member}" in error for error in errors)


@pytest.mark.parametrize(("version", "name"), [(VERSION_10, "tensorrt_10.16"), (VERSION_11, "tensorrt_11.4")])
def test_the_twin_has_nothing_that_the_library_lacks(version: str, name: str) -> None:
    module, _ = make_twin(version)
    classes = load(name)["classes"]
    made = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    weak = version == VERSION_10
    for extra in ("ILayer", "IConstantLayer", "IBuilderConfig"):
        made[extra] = getattr(twin_surface, f"{extra}10" if weak else extra)
    for extra in ("ITensor", "INetworkDefinition", "IOptimizationProfile", "ITimingCache", "IHostMemory"):
        made[extra] = getattr(twin_surface, extra)
    for owner, cls in made.items():
        bases = [owner, "ILayer"] if owner == "IConstantLayer" else [owner, "IInt8Calibrator"]
        known = {member for base in bases for member in classes.get(base, {})}
        public = {m for base in cls.__mro__[:-1] for m in vars(base) if not m.startswith("_")} - _INT_MEMBERS
        assert owner in classes
        assert public <= known, (owner, public - known)


@pytest.mark.parametrize("name", ["tensorrt_10.16", "tensorrt_11.4"])
def test_the_running_twin_has_nothing_that_the_library_lacks(name: str) -> None:
    classes = load(name)["classes"]
    made = {key: cls for key, cls in vars(twin_runtime).items() if isinstance(cls, type) and key in classes}
    assert {"IProfiler", "IExecutionContext", "ICudaEngine", "Runtime", "ILogger"} <= set(made)
    own = {"Runtime": {"version", "logger"}, "ILogger": set(ILOGGER), "Logger": {"log", "min_severity"}}
    for owner, cls in made.items():
        public = {member for member in vars(cls) if not member.startswith("_")} - _INT_MEMBERS - own.get(owner, set())
        assert public <= set(classes[owner]), (owner, public - set(classes[owner]))
    for member in ("profiler", "enqueue_emits_profile"):
        assert classes["IExecutionContext"][member].startswith("[rw]")


ILOGGER = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE", "Severity")
_INT_MEMBERS = {name for name in dir(int) if not name.startswith("_")} | {"name", "value"}


def test_no_access_at_run_time_escapes_the_collector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = Case()
    weak = WeakTyping(case.model, {n.name: n.precision for n in case.plan.nodes}, case.table)
    options = BuildOptions(tmp_path, 3, "same_compute_capability", True)
    for version, name in ((VERSION_10, "tensorrt_10.16"), (VERSION_11, "tensorrt_11.4")):
        module, _ = make_twin(version)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        twin_surface.TOUCHED.clear()
        backend = TensorRt(lambda: A10G, HostUploader)
        for table, data in ((case.table, None), (None, batches())):
            changed = WeakTyping(weak.model, weak.precisions, table, data)
            backend.build(BuildRequest(case.typed(), SHAPES, "sm86", weak=changed, options=options))
        known = {(use.owner, use.member) for use in collected(name)}
        inherited = {("IConstantLayer", member) for owner, member in known if owner == "ILayer"}
        touched = {(o.removesuffix("10"), m) for o, m in twin_surface.TOUCHED} - {("", "_twin")}
        assert Precision.INT8 in weak.precisions.values()
        assert len(touched) > 35
        assert {t for t in touched if t not in known | inherited} == set()


def test_the_stored_surface_of_rtx_is_that_of_the_installed_one() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'trt-facefusion[rtx]'")
    stored = load("tensorrt_rtx_1.7")
    if rtx.__version__ != stored["version"]:
        pytest.skip(f"tensorrt_rtx {rtx.__version__} is installed, the stored surface is {stored['version']}")
    assert extract(rtx)["classes"] == stored["classes"]


@pytest.mark.parametrize("major", [10, 11])
def test_callbacks_work_in_the_real_bindings(major: int) -> None:
    if not (BINDINGS / str(major) / "tensorrt_bindings").is_dir():
        pytest.skip("no bindings at hand: run scripts/fetch_trt_bindings.sh")
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    if not list((BINDINGS / "wheels").glob(f"*-{tag}-*.whl")):
        pytest.skip("the bindings at hand are for another Python")
    script = Path(__file__).with_name("real_bindings.py")
    env = {**os.environ, "PYTHONPATH": str(Path(trt_facefusion.__file__).resolve().parents[1])}
    command = [sys.executable, "-W", "ignore", str(script), str(BINDINGS), str(major)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "all right" in done.stdout
