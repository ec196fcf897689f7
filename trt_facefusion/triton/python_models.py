"""The steps as models of Triton's python backend, which runs each instance in a process of its own.

A request that cannot be answered gets an error that says why; the others of its batch do not suffer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trt_facefusion.errors import BackendUnavailableError, TrtFaceFusionError
from trt_facefusion.triton.steps import CROP, MATRIX, PHOTO, SOURCES, TARGET, PhotoSteps
from trt_facefusion.types import Array


class _PythonModel(ABC):
    """What both have in common."""

    steps: PhotoSteps

    def initialize(self, args: Mapping[str, str]) -> None:
        """Triton's: load what the version's folder describes. Raises BackendUnavailableError with NumPy 2."""
        _require_numpy_1()
        folder = Path(args["model_repository"]) / args["model_version"]
        self.steps = PhotoSteps.load(folder)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's: a response for each of ``requests``."""
        return [self._respond(request) for request in requests]

    @abstractmethod
    def answer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The output tensors of a request with these inputs."""

    def _respond(self, request: Any) -> Any:
        import triton_python_backend_utils as pb_utils

        if request.is_cancelled():
            error = pb_utils.TritonError("the client has gone", pb_utils.TritonError.CANCELLED)
            return pb_utils.InferenceResponse(error=error)
        try:
            tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            outputs = self.answer(tensors)
        except TrtFaceFusionError as error:
            text = f"{error.message}: {error.remedy}"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])


class Preprocess(_PythonModel):
    """`PhotoSteps.prepare`."""

    def answer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Photos -> the generator's inputs."""
        sources = [bytes(photo) for photo in tensors[SOURCES].ravel()] if SOURCES in tensors else []
        return {
            name: np.ascontiguousarray(a) for name, a in self.steps.prepare(sources, _read(tensors[TARGET])).items()
        }


class Postprocess(_PythonModel):
    """`PhotoSteps.finish`."""

    def answer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The generator's outputs -> a photo."""
        photo = self.steps.finish(_read(tensors[TARGET]), tensors[MATRIX], tensors[CROP], tensors)
        return {PHOTO: np.array([photo], np.object_)}


def _read(tensor: Array) -> bytes:
    return bytes(tensor.ravel()[0])


def _require_numpy_1() -> None:
    """Refuse NumPy 2: with it the python backend of Triton 2.51 gives tensors of zero bytes, and no error."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise BackendUnavailableError(
            f"Triton's python backend gives empty tensors with NumPy {np.__version__}", "pip install 'numpy<2'"
        )
