"""This project's runners as Polygraphy's, so that its `Comparator` works with an engine and an ONNX model alike.

Polygraphy reports on stdout; here only the command line does. ``silence`` mutes it, and turns its errors into ours.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.errors import BadInputError
from trt_facefusion.types import Array, Feeds

_ABOVE_ALL = G_LOGGER.CRITICAL + 1


class PolygraphyRunner(BaseRunner):  # type: ignore[misc]
    """Any `Runner` as a Polygraphy runner.

    Args:
        open_runner: makes the runner when Polygraphy activates this one; it is closed on deactivation.
        name: what the results of this runner are called.
    """

    def __init__(self, open_runner: Callable[[], Runner], name: str) -> None:
        super().__init__(name=name)
        self._open = open_runner
        self._runner: Runner | None = None

    def activate_impl(self) -> None:
        """Open the runner; raises what opening it raises."""
        self._runner = self._open()

    def deactivate_impl(self) -> None:
        """Close it."""
        runner, self._runner = self._opened, None
        runner.close()

    @property
    def _opened(self) -> Runner:
        if self._runner is None:
            raise RuntimeError(f"the runner {self.name} is not active")
        return self._runner

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Names, types and shapes; dynamic axes are None."""
        metadata = TensorMetadata()
        for spec in self._opened.inputs:
            shape = tuple(axis if isinstance(axis, int) else None for axis in spec.shape)
            metadata.add(spec.name, np.dtype(spec.dtype), shape)
        return metadata

    def infer_impl(self, feed_dict: Feeds) -> OrderedDict[str, Array]:
        """Outputs by name; Polygraphy reads the seconds it took from ``inference_time``."""
        started = time.perf_counter()
        outputs = self._opened.infer(feed_dict)
        self.inference_time = time.perf_counter() - started
        return OrderedDict(outputs)


@contextmanager
def silence() -> Iterator[None]:
    """Let Polygraphy print nothing.

    Raises:
        BadInputError: in place of Polygraphy's own error, for example on inputs that do not fit a runner.
    """
    try:
        with G_LOGGER.verbosity(_ABOVE_ALL):
            yield
    except PolygraphyException as error:
        raise BadInputError(
            f"Polygraphy cannot compare them: {' '.join(str(error).split())}",
            "Compare two engines of the same model, with the same inputs.",
        ) from error
