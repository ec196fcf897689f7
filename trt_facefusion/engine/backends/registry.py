"""Which engine makers there are, and which one a target gets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trt_facefusion.engine.backends.base import Backend
from trt_facefusion.engine.backends.onnxruntime import OnnxRuntime
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.backends.tensorrt_rtx import TARGETS, TensorRtRtx
from trt_facefusion.errors import BackendUnavailableError, BadInputError

NAMES = ("tensorrt", "tensorrt-rtx", "onnxruntime")
DEFAULT_TARGET = "sm86"
"""NVIDIA A10G."""


@dataclass(frozen=True)
class Choice:
    """The engine maker to use, for which target, and why."""

    backend: Backend
    target: str
    reason: str


def get(name: str) -> Backend:
    """The engine maker of that name, installed or not.

    Raises:
        BackendUnavailableError: this version has no engine maker of that name.
    """
    makers: dict[str, Backend] = {
        "tensorrt": TensorRt(),
        "tensorrt-rtx": TensorRtRtx(),
        "onnxruntime": OnnxRuntime(),
    }
    if name in makers:
        return makers[name]
    raise BackendUnavailableError(f"There is no backend {name!r}.", f"Take one of: auto, {', '.join(NAMES)}.")


def available() -> dict[str, str]:
    """The engine makers that are installed, with their versions."""
    found = {}
    for name in NAMES:
        try:
            found[name] = get(name).version()
        except BackendUnavailableError:
            continue
    return found


def default_target(name: str) -> str:
    """The target where none was named: the CPU for onnxruntime, this machine's GPU where TensorRT can build for it."""
    if name == "onnxruntime":
        return "cpu"
    here = _this_gpu() if name in {"auto", "tensorrt"} else None
    return here or DEFAULT_TARGET


def choose(name: str, target: str) -> Choice:
    """The engine maker for ``target``.

    ``auto`` takes TensorRT where it is installed and the target is this machine's GPU, else tensorrt-rtx for a GPU, and
    onnxruntime where that is missing.

    Raises:
        BackendUnavailableError: not installed, or it does not build for the target.
        BadInputError: no engine maker knows the target.
    """
    here = _this_gpu() if name == "auto" and target != "cpu" else None
    known = tuple(dict.fromkeys(("cpu", *TARGETS, *([here] if here else []))))
    if target not in known and not (name != "auto" and re.fullmatch(r"sm\d+", target)):
        raise BadInputError(f"The target {target!r} is not known.", f"Take one of: {', '.join(known)}.")
    if name != "auto":
        backend = get(name)
        backend.require(target)
        return Choice(backend, target, "asked for")
    if target == "cpu":
        return Choice(OnnxRuntime(), "cpu", "the target is the CPU")
    if target == here:
        return Choice(TensorRt(), target, "TensorRT is installed, and the target is this machine's GPU")
    rtx = TensorRtRtx()
    try:
        rtx.require(target)
    except BackendUnavailableError as error:
        return Choice(OnnxRuntime(), "cpu", f"no {target} engine: {error.message} {error.remedy}")
    return Choice(rtx, target, f"tensorrt-rtx builds for {target} without a GPU")


def _this_gpu() -> str | None:
    """The target of this machine's GPU, where TensorRT is installed and the GPU is known."""
    maker = TensorRt()
    try:
        maker.version()
    except BackendUnavailableError:
        return None
    return next(iter(maker.targets()), None)
