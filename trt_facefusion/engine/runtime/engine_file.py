"""Loads serialised TensorRT engines."""

from __future__ import annotations

import importlib
from typing import Any

from trt_facefusion.errors import BackendUnavailableError, DeviceError, pip_install


def load_engine(plan: bytes, library: str = "tensorrt", host_code: bool = False, extra: str = "gpu") -> Any:
    """The ``ICudaEngine`` of ``plan``, on the GPU whose context is current.

    Args:
        plan: the engine as it was stored.
        library: the module that loads it: ``tensorrt`` or ``tensorrt_rtx``, whichever built it.
        host_code: the plan may run code of its own on the host, as one that is compatible with later versions does;
            only for a plan whose origin is known.
        extra: the extra of pyproject.toml that installs the library.

    Raises:
        BackendUnavailableError: TensorRT is not installed.
        DeviceError: TensorRT refused the plan; the message holds TensorRT's own.
    """
    try:
        trt = importlib.import_module(library)
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            f"TensorRT cannot be loaded: {error}",
            f"Install it with `{pip_install(extra)}`, or run the engine's ONNX with onnxruntime.",
        ) from error

    class Complaints(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants its own called by name
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(msg)

    complaints = Complaints()
    engine = None
    try:
        runtime = trt.Runtime(complaints)
        if host_code:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
    except TypeError as error:  # how pybind11 says that there is no runtime: the driver does not suit TensorRT
        complaints.lines.append(str(error))
    if engine is None:
        raise DeviceError(
            f"TensorRT refused the engine: {' '.join(complaints.lines) or 'it does not say why'}",
            "An engine runs only with the TensorRT version and the kind of GPU that it was built for: build it again "
            "on this machine (`trt-ff build`).",
        )
    return engine
