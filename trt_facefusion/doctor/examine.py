"""The examination of one machine: everything that `trt-ff doctor` shows, as values."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.doctor.advice import advise_on_gpus, advise_on_sources, advise_on_space
from trt_facefusion.doctor.driver import Driver, Gpu, ask_driver
from trt_facefusion.doctor.findings import ADVICE, PROBLEM, WARNING, Finding
from trt_facefusion.doctor.packages import Packages, find_clashes, list_shown
from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.gpu_support import find_gpu_support
from trt_facefusion.engine.backends.processor import name_instructions, name_processor
from trt_facefusion.engine.backends.registry import BackendSelection
from trt_facefusion.errors import TrtFaceFusionError, pip_install


@dataclass(frozen=True)
class DefaultBuild:
    """What `trt-ff build` would choose, and why; ``backend`` is empty where it would fail."""

    backend: str
    version: str
    target: str
    reason: str


@dataclass(frozen=True)
class Examination:
    """The facts of this machine and what they mean. Sizes in bytes; None where they are not known."""

    python: str
    system: str
    processor: str
    driver: Driver
    packages: Mapping[str, str | None]
    tools: Mapping[str, str | None]
    memory_bytes: int | None
    disk_bytes: Mapping[str, int | None]
    build: DefaultBuild
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether a build works by default."""
        return not any(finding.level == PROBLEM for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        driver = self.driver
        return {
            "schema": 1,
            "ok": self.healthy,
            "python": self.python,
            "system": self.system,
            "processor": self.processor,
            "driver": {
                "release": driver.release,
                "cuda": _format_version(driver.cuda),
                "problem": driver.problem or None,
            },
            "gpus": [_describe_gpu(gpu) for gpu in driver.gpus],
            "packages": dict(self.packages),
            "tools": dict(self.tools),
            "memory_bytes": self.memory_bytes,
            "disk_bytes": dict(self.disk_bytes),
            "build": vars(self.build),
            "findings": [{"level": f.level, "text": f.text, "commands": list(f.commands)} for f in self.findings],
        }


def _describe_gpu(gpu: Gpu) -> dict[str, Any]:
    support = find_gpu_support(gpu.compute_capability)
    return {
        "index": gpu.index,
        "name": gpu.name,
        "compute_capability": _format_version(gpu.compute_capability),
        "target": gpu.target,
        "total_bytes": gpu.total_bytes,
        "free_bytes": gpu.free_bytes,
        "architecture": support.architecture if support else None,
        "int8": support.int8 if support else None,
        "fp16": support.fp16 if support else None,
        "precision": support.best.value if support else None,
        "reason": support.reason if support else None,
    }


def _format_version(version: tuple[int, int] | None) -> str | None:
    return None if version is None else "{}.{}".format(*version)


def examine(output: Path, cache: Path, *, quick: bool = False) -> Examination:
    """Look at everything; nothing is changed, and no error of what is looked at gets out.

    Args:
        output: where engines are stored.
        cache: where calibrations are stored.
        quick: do not try whether the backend takes a network.
    """
    driver, packages = ask_driver(), Packages.installed().with_modules(registry.available())
    build, problems = _find_default_build(quick=quick)
    memory = _read_available_memory()
    disk = {str(folder): _read_free_disk(folder) for folder in dict.fromkeys((output, cache))}
    return Examination(
        python=platform.python_version(),
        system=platform.platform(),
        processor=f"{name_processor()} ({name_instructions()})",
        driver=driver,
        packages={name: packages[name] for name in list_shown()},
        tools={name: shutil.which(name) for name in ("nvidia-smi", "trtexec")},
        memory_bytes=memory,
        disk_bytes=disk,
        build=build,
        findings=_sort_findings(
            (
                *problems,
                *advise_on_sources(quick=quick),
                *find_clashes(packages, driver.cuda),
                *advise_on_gpus(driver, packages, build.backend, build.target),
                *advise_on_space(memory, disk),
            )
        ),
    )


def _sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order = (PROBLEM, WARNING, ADVICE)
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.level)))


def _find_default_build(*, quick: bool) -> tuple[DefaultBuild, list[Finding]]:
    """What `auto` selects, and what stands in the way: a missing library, or a backend that takes nothing."""
    target = registry.default_target("auto")
    try:
        selection = registry.select_backend("auto", target)
        version = selection.backend.version()
        if not quick:
            selection.backend.check(_make_convolution())
    except TrtFaceFusionError as error:
        return DefaultBuild("", "", target, error.message), [Finding(PROBLEM, error.message, (f"# {error.remedy}",))]
    except Exception as error:  # a library that is there and broken may raise anything
        message = f"the backend does not work: {type(error).__name__}: {error}"
        return DefaultBuild("", "", target, message), [Finding(PROBLEM, message)]
    return DefaultBuild(selection.backend.name, version, selection.target, selection.reason), _explain_selection(
        selection
    )


def _explain_selection(selection: BackendSelection) -> list[Finding]:
    """What is to be said of the selected backend, and of the one that it stands in for."""
    findings = []
    if selection.missing is not None:
        library = selection.missing.library
        broken = importlib.util.find_spec(library.module) is not None
        install = pip_install(library.extra, *(("--force-reinstall",) if broken else ()))
        findings.append(Finding(PROBLEM if broken else WARNING, selection.reason, (install,)))
    if selection.backend.caution:
        findings.append(Finding(ADVICE, selection.backend.caution))
    return findings


def _make_convolution() -> bytes:
    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("y", None))]
    graph = helper.make_graph([node], "trial", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


def _read_available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _read_free_disk(folder: Path) -> int | None:
    """Free bytes where ``folder`` is or would be; None where nothing can be written there."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        return None
    return shutil.disk_usage(nearest).free
