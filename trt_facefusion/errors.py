"""Every error that a user may see: what happened and why (the message), and what to do (the remedy).

The command line prints both and exits with ``exit_code``; anything that is not one of these is a bug of ours. A remedy
that installs something works as it is printed (`pip_install`): this package is on no index, so
`pip install trt-facefusion[gpu]` cannot work; the packages of an extra are, and are named with tested versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from packaging.requirements import Requirement


class TrtFaceFusionError(Exception):
    """Base of all errors with a cause and a remedy."""

    kind = "error"
    exit_code = 1

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def as_dict(self) -> dict[str, str]:
        """The error as the ``--json`` output shows it."""
        return {"kind": self.kind, "message": self.message, "remedy": self.remedy}


class BadInputError(TrtFaceFusionError):
    """An option, file or folder that the user named cannot be used."""

    kind = "bad_input"
    exit_code = 2


class FacesError(BadInputError):
    """A folder of photos does not give enough usable faces."""

    kind = "faces"


class ModelError(BadInputError):
    """An ONNX file or a checkpoint is damaged, unsafe, or not what its description says."""

    kind = "model"


class PlanError(BadInputError):
    """A plan file is malformed or names nodes that the model does not have."""

    kind = "plan"


class CalibrationCacheError(BadInputError):
    """A calibration cache is damaged or belongs to another model or other faces."""

    kind = "calibration_cache"


class GateError(TrtFaceFusionError):
    """No engine, or none of the requested precision, passed the accuracy gate."""

    kind = "accuracy_gate"
    exit_code = 3


class BackendUnavailableError(TrtFaceFusionError):
    """The backend that is needed is not installed, or cannot build for the target."""

    kind = "backend_unavailable"
    exit_code = 4


class BuildError(TrtFaceFusionError):
    """The backend refused the network, or (with --strict) did not keep the plan; ``log`` is what it said."""

    kind = "build"
    exit_code = 5

    def __init__(self, message: str, remedy: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message, remedy)
        self.log = log


class KernelsUnknownError(BuildError):
    """The backend built an engine, but does not say in a form that can be read which kernels it has."""


class PreparationError(BuildError):
    """Our own preparation of a network changed what it computes: no fault of the user's file."""

    kind = "preparation"


class StoreError(TrtFaceFusionError):
    """The store cannot be read or written: rights, space, a damaged engine, or another build that holds the lock."""

    kind = "store"
    exit_code = 6


class DeviceError(TrtFaceFusionError):
    """The GPU, its driver or TensorRT failed while an engine was loaded or run."""

    kind = "device"
    exit_code = 7


class DeviceMemoryError(DeviceError):
    """The GPU (or page-locked host memory) has no room for what was asked."""

    kind = "device_memory"


class DeviceLostError(DeviceError):
    """The GPU's context is broken: nothing runs on it any more in this process."""

    kind = "device_lost"


class NoEngineError(DeviceError):
    """A service has engines, and none of them works at present."""

    kind = "no_engine"


_TESTED = {
    "torch": ("torch>=2.13,<2.14", "onnxscript>=0.7,<0.8"),
    "rtx": ("tensorrt-rtx>=1.7,<1.8",),
    "openvino": ("openvino>=2026.4,<2026.5",),
    "metrics": ("stlpips_pytorch>=0.0.2,<0.1",),
    "qnn": ("onnxruntime-qnn>=2.7,<2.8",),
    "gpu": ("tensorrt>=10.9,<12", "pycuda>=2026.1", "cuda-bindings>=12.9,<14"),
    "video": ("av>=18,<19",),
    "provenance": ("c2pa-python>=0.38,<0.39",),
    "serve": (
        "fastapi>=0.121,<0.166",
        "uvicorn>=0.54,<0.55",
        "python-multipart>=0.0.20,<0.1",
        "prometheus-client>=0.22,<0.27",
    ),
    "triton": ("tritonclient>=2.73,<2.74",),
}
"""The extras of pyproject.toml, for where this package runs without being installed; a test holds the two together."""


def requirements(extra: str) -> Sequence[str]:
    """The requirements of an extra, as pip takes them; of one that nothing tells of, the extra of this checkout."""
    try:
        texts = metadata.requires("trt-facefusion") or []
    except metadata.PackageNotFoundError:
        texts = []
    everything = [Requirement(text) for text in texts]
    marker = f'extra == "{extra}"'
    of_extra = [r for r in everything if r.marker is not None and marker in str(r.marker).replace("'", '"')]
    return [f"{r.name}{r.specifier}" for r in of_extra] or _TESTED.get(extra, (f".[{extra}]",))


def pip_install(extra: str, *options: str) -> str:
    """The command that installs the packages of an extra into this environment."""
    return " ".join(("pip install", *options, *(f"'{requirement}'" for requirement in requirements(extra))))
