"""pycuda's driver module and its errors, in the words of this project."""

from __future__ import annotations

from typing import Any

from trt_facefusion.errors import BackendUnavailableError, DeviceError, DeviceLostError, DeviceMemoryError, pip_install

LOST_REMEDY = (
    "Start the process again. If it comes back: `nvidia-smi` and the kernel's log (Xid errors) say whether the GPU is "
    "sound; an engine that was built for another GPU or driver must be built again."
)


def cuda_driver() -> Any:
    """``pycuda.driver``, initialised.

    Raises:
        BackendUnavailableError: pycuda is not installed, or there is no driver or no GPU.
    """
    try:
        from pycuda import driver
    except ImportError as error:  # also a missing libcuda.so.1
        raise BackendUnavailableError(
            f"pycuda cannot be loaded: {error}",
            f"Install NVIDIA's driver, and `{pip_install('gpu')}`, or run the engine's ONNX with onnxruntime.",
        ) from error
    try:
        driver.init()
    except driver.Error as error:
        raise BackendUnavailableError(
            f"There is no usable GPU: {error}.", "Check `nvidia-smi`; in a container, start it with `--gpus all`."
        ) from error
    return driver


def explain_shortage(what: str, needed_bytes: int | None, driver: Any) -> DeviceMemoryError:
    """The error for a failed allocation of ``what`` (None: how much it takes is not known); needs a current context."""
    try:
        free, total = driver.mem_get_info()
        left = f"{_format_mib(free)} of {_format_mib(total)} are free"
    except driver.Error:
        left = "how much is free is not known"
    size = "" if needed_bytes is None else f" ({_format_mib(needed_bytes)})"
    return DeviceMemoryError(
        f"There is no memory for {what}{size}: {left}.",
        "Use fewer slots, build the engine for a smaller largest batch, or end other programs on this GPU "
        "(`nvidia-smi` lists them).",
    )


def explain_failure(doing: str, error: BaseException) -> DeviceError:
    """The error for a call that failed on a device that still works."""
    return DeviceError(
        f"The GPU failed while {doing}: {error}.",
        "Try again. If it comes back, build the engine again on this machine (`trt-ff build`).",
    )


def explain_loss(error: Exception) -> DeviceLostError:
    """The error for a context that no longer answers."""
    return DeviceLostError(f"The GPU no longer answers in this process: {error}.", LOST_REMEDY)


def _format_mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
