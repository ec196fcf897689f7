"""What the runners of onnxruntime's sessions share."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from trt_facefusion.engine.runtime.base import check_feeds
from trt_facefusion.engine.runtime.in_flight import Outputs, Queue, keep_order
from trt_facefusion.types import Array, Feeds, TensorSpec

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_Self = TypeVar("_Self", bound="SessionRunner")


class SessionRunner:
    """Runs an onnxruntime session. Any number of threads may call it.

    Args:
        session: the session; the runner owns it.
        slots: inferences that ``infer_async`` and ``map`` take at once.
        one_at_a_time: the session is not to be run by two threads at once.
    """

    def __init__(self, session: Any, slots: int, *, one_at_a_time: bool = False) -> None:
        self._session = session
        self._inputs = tuple(_read_spec(node_arg) for node_arg in session.get_inputs())
        self._outputs = tuple(_read_spec(node_arg) for node_arg in session.get_outputs())
        self._queue = Queue(slots)
        self._at_work: AbstractContextManager[Any] = threading.Lock() if one_at_a_time else nullcontext()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``infer`` takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``infer`` gives."""
        return self._outputs

    def infer(self, feeds: Feeds) -> Outputs:
        """Outputs by name.

        Raises:
            BadInputError: ``feeds`` are not what the model takes; nothing is converted.
            TrtFaceFusionError: the session failed; which one, `explain_failure` says.
            RuntimeError: the runner is closed, or was opened in another process.
        """
        self._check(feeds)
        return self._run(feeds)

    def infer_async(self, feeds: Feeds) -> Future[Outputs]:
        """Start an inference in another thread; ``feeds`` are copied before this returns.

        Futures complete in the order of their submission. Waits while ``slots`` are in flight.

        Raises:
            BadInputError, RuntimeError: as ``infer``; what the session says comes out of the future.
        """
        self._check(feeds)
        copied = {name: np.array(tensor) for name, tensor in feeds.items()}
        return self._queue.submit(lambda: self._run(copied))

    def map(self, batches: Iterable[Feeds]) -> Iterator[Outputs]:
        """Outputs in the order of ``batches``; ``slots`` batches are read ahead."""
        return keep_order(self.infer_async, self._queue.slots, batches)

    def explain_failure(self, error: Exception) -> Exception:
        """What is raised where the session raised ``error``."""
        return error

    def close(self) -> None:
        """Let what is in flight finish, then free the session; closing twice does nothing."""
        self._queue.close()
        if not self._queue.owner.is_here:
            return
        with self._at_work:
            self._session = None

    def _check(self, feeds: Feeds) -> None:
        self._queue.owner.require()
        self._require_open()
        check_feeds(feeds, self._inputs)

    def _run(self, feeds: Feeds) -> Outputs:
        contiguous = {name: np.asarray(tensor, order="C") for name, tensor in feeds.items()}
        with self._at_work:
            session = self._require_open()  # it may have been closed while this call waited
            try:
                values: list[Array] = session.run(None, contiguous)
            except Exception as error:  # onnxruntime has a class of its own for each status code, with no common base
                raise self.explain_failure(error) from error
        return dict(zip((spec.name for spec in self._outputs), values, strict=True))

    def _require_open(self) -> Any:
        if self._session is None:
            raise RuntimeError("the runner is closed")
        return self._session

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def join_lines(error: BaseException) -> str:
    """What onnxruntime or a library in it says, on one line."""
    return " ".join(str(error).split())


def _read_spec(node_arg: Any) -> TensorSpec:
    dtype = _DTYPES.get(node_arg.type, node_arg.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(axis if isinstance(axis, int) else str(axis or "") for axis in node_arg.shape)
    return TensorSpec(node_arg.name, shape, dtype)
