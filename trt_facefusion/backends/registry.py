"""Which engine makers there are, and which one a target gets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trt_facefusion.backends.base import Backend
from trt_facefusion.backends.onnxruntime import OnnxRuntime
from trt_facefusion.backends.tensorrt_rtx import TARGETS, TensorRtRtx
from trt_facefusion.errors import BackendUnavailableError, BadInputError

NAMES = ("tensorrt-rtx", "onnxruntime")


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
    makers: dict[str, Backend] = {"tensorrt-rtx": TensorRtRtx(), "onnxruntime": OnnxRuntime()}
    if name in makers:
        return makers[name]
    if name == "tensorrt":
        raise BackendUnavailableError(
            "This version does not build with TensorRT 10 or 11 yet.",
            "Take --backend tensorrt-rtx: it builds for the same GPUs, and needs none to build.",
        )
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


def choose(name: str, target: str) -> Choice:
    """The engine maker for ``target``; ``auto`` takes tensorrt-rtx for a GPU, and onnxruntime where that is missing.

    Raises:
        BackendUnavailableError: not installed, or it does not build for the target.
        BadInputError: no engine maker knows the target.
    """
    known = ("cpu", *TARGETS)
    if target not in known and not (name != "auto" and re.fullmatch(r"sm\d+", target)):
        raise BadInputError(f"The target {target!r} is not known.", f"Take one of: {', '.join(known)}.")
    if name != "auto":
        backend = get(name)
        backend.require(target)
        return Choice(backend, target, "asked for")
    if target == "cpu":
        return Choice(OnnxRuntime(), "cpu", "the target is the CPU")
    rtx = TensorRtRtx()
    try:
        rtx.require(target)
    except BackendUnavailableError as error:
        return Choice(OnnxRuntime(), "cpu", f"no {target} engine: {error.message} {error.remedy}")
    return Choice(rtx, target, f"tensorrt-rtx builds for {target} without a GPU")
