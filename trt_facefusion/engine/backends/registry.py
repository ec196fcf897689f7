"""Which backends there are, and which one a target gets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trt_facefusion.engine.backends.base import Backend
from trt_facefusion.engine.backends.onnxruntime import OnnxRuntime
from trt_facefusion.engine.backends.openvino import OpenVino
from trt_facefusion.engine.backends.qnn import Qnn
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.backends.tensorrt_rtx import A10G, TensorRtRtx
from trt_facefusion.errors import BackendUnavailableError, BadInputError

BACKENDS: tuple[Backend, ...] = (
    TensorRt(),
    TensorRtRtx(),
    OpenVino(),
    OnnxRuntime(),
    Qnn(),
)
"""One line for each, those first that ``auto`` tries first and whose engines are loaded first."""

DEFAULT_TARGET = A10G
CPU = "cpu"


@dataclass(frozen=True)
class BackendSelection:
    """The backend to use, for which target, and why; ``missing`` is the one that ``auto`` could not take for it."""

    backend: Backend
    target: str
    reason: str
    missing: Backend | None = None


def list_names() -> tuple[str, ...]:
    """The names of all backends, in the order of `BACKENDS`."""
    return tuple(backend.name for backend in BACKENDS)


def find_backend(name: str) -> Backend | None:
    """The backend of that name, installed or not; None where there is none."""
    return next((backend for backend in BACKENDS if backend.name == name), None)


def get_backend(name: str) -> Backend:
    """The backend of that name, installed or not.

    Raises:
        BackendUnavailableError: this version has no backend of that name.
    """
    backend = find_backend(name)
    if backend is None:
        raise BackendUnavailableError(
            f"There is no backend {name!r}.", f"Take one of: auto, {', '.join(list_names())}."
        )
    return backend


def available() -> dict[str, str]:
    """The backends that are installed, with their versions."""
    versions = {}
    for backend in BACKENDS:
        try:
            versions[backend.name] = backend.version()
        except BackendUnavailableError:
            continue
    return versions


def get_math_types(name: str) -> frozenset[str]:
    """The kernel types that multiply and add, of the engines of a backend; none of one that this version lacks."""
    backend = find_backend(name)
    return frozenset() if backend is None else backend.capabilities.math_types


def calibrates_itself(name_and_version: str) -> bool:
    """Whether a backend of that version, like ``tensorrt 10.16.1.11``, can make a calibration table of its own."""
    name, _, version = name_and_version.partition(" ")
    backend, major = find_backend(name), re.match(r"\d+", version)
    return backend is not None and major is not None and int(major[0]) in backend.capabilities.calibrating_majors


def default_target(name: str) -> str:
    """The target where none was named: that of the backend, for ``auto`` of the first backend that has one."""
    candidates = BACKENDS if name == "auto" else tuple(backend for backend in BACKENDS if backend.name == name)
    targets = (backend.default_target() for backend in candidates)
    return next((target for target in targets if target is not None), DEFAULT_TARGET)


def select_backend(name: str, target: str) -> BackendSelection:
    """The backend for ``target``.

    ``auto`` takes the first that recommends itself for the target and is installed: TensorRT where the target is this
    machine's GPU, else tensorrt-rtx for a GPU; and where none is installed, the first that recommends itself for the
    CPU and is installed.

    Raises:
        BackendUnavailableError: not installed, or it does not build for the target.
        BadInputError: no backend knows the target.
    """
    if name != "auto":
        _require_known(target, any_gpu=True)
        backend = get_backend(name)
        backend.require(target)
        return BackendSelection(backend, target, "asked for")
    installed, missing = _find_recommended(target)
    if installed is None and not missing:
        _require_known(target, any_gpu=False)
    if installed is not None:
        return BackendSelection(installed, target, installed.recommend(target) or "")
    return _select_for_cpu(target, missing)


def _find_recommended(target: str) -> tuple[Backend | None, list[tuple[Backend, str]]]:
    """The first backend that recommends itself for ``target`` and is installed; those before it, and why not them."""
    missing: list[tuple[Backend, str]] = []
    for backend in BACKENDS:
        if backend.recommend(target) is None:
            continue
        try:
            backend.require(target)
        except BackendUnavailableError as error:
            missing.append((backend, f"no {target} engine: {error.message} {error.remedy}"))
        else:
            return backend, missing
    return None, missing


def _select_for_cpu(target: str, missing: list[tuple[Backend, str]]) -> BackendSelection:
    portable, _ = _find_recommended(CPU)
    if portable is None or target == CPU:
        raise BackendUnavailableError(f"No backend builds for the target {target}.", "Name one with --backend.")
    if not missing:
        return BackendSelection(portable, CPU, f"no backend builds for {target}")
    unavailable, reason = missing[0]
    return BackendSelection(portable, CPU, reason, unavailable)


def _require_known(target: str, *, any_gpu: bool) -> None:
    """Raise BadInputError for a target that no backend names, and that is no GPU (or ``any_gpu`` is off)."""
    if any_gpu and re.fullmatch(r"sm\d+", target):
        return
    elsewhere = [t for b in BACKENDS if not b.capabilities.needs_device for t in b.targets()]
    here = [] if any_gpu else [t for b in BACKENDS if b.capabilities.needs_device and (t := b.default_target())]
    targets = tuple(dict.fromkeys((CPU, *elsewhere, *here)))
    if target not in targets:
        raise BadInputError(f"The target {target!r} is not known.", f"Take one of: {', '.join(targets)}.")
