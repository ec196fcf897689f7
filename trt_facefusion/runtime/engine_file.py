"""Loads serialised TensorRT engines."""

from __future__ import annotations

from typing import Any

from trt_facefusion.errors import BackendUnavailableError, DeviceError


def load_engine(plan: bytes) -> Any:
    """The ``ICudaEngine`` of ``plan``, by the TensorRT that is installed, on the GPU whose context is current.

    Raises:
        BackendUnavailableError: TensorRT is not installed.
        DeviceError: TensorRT refused the plan; the message holds TensorRT's own.
    """
    try:
        import tensorrt as trt
    except ImportError as error:
        raise BackendUnavailableError(
            f"TensorRT cannot be loaded: {error}",
            "Install it with `pip install trt-facefusion[gpu]`, or run the engine's ONNX with onnxruntime.",
        ) from error

    class Complaints(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants its own called by name
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(msg)

    complaints = Complaints()
    engine = None
    try:
        engine = trt.Runtime(complaints).deserialize_cuda_engine(plan)
    except TypeError as error:  # how pybind11 says that there is no runtime: the driver does not suit TensorRT
        complaints.lines.append(str(error))
    if engine is None:
        raise DeviceError(
            f"TensorRT refused the engine: {' '.join(complaints.lines) or 'it does not say why'}",
            "An engine runs only with the TensorRT version and the kind of GPU that it was built for: build it again "
            "on this machine (`trt-ff build`).",
        )
    return engine
