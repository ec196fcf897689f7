"""Whether torch can be used."""

from __future__ import annotations

from trt_facefusion.errors import BackendUnavailableError, pip_install


def require_torch() -> None:
    """Raise `BackendUnavailableError` when torch is not installed."""
    try:
        import onnxscript
        import torch  # noqa: F401

        del onnxscript
    except ImportError as error:
        raise BackendUnavailableError(
            f"exporting a torch network needs torch and onnxscript ({error})",
            f"{pip_install('torch')} (or give the model as ONNX with --onnx)",
        ) from error
