"""Puts calibration batches where TensorRT reads them: into GPU memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from trt_facefusion.engine.backends.device import PrimaryContext
from trt_facefusion.errors import BadInputError, BuildError
from trt_facefusion.types import Array, Feeds

SLOTS = 2


class Uploader(Protocol):
    """Two places for a batch in GPU memory. ``start`` may return before the batch is there; ``finish`` waits for it."""

    def start(self, slot: int, feeds: Feeds) -> None:
        """Begin to copy a batch into ``slot``; the arrays may change afterwards. All batches have the same shapes."""

    def finish(self, slot: int) -> Mapping[str, int]:
        """Wait until the batch of ``slot`` is there; the device address of each input."""

    def close(self) -> None:
        """Free everything."""


class PycudaUploader:
    """Uploads through pinned host memory on a stream of its own, in the GPU's primary context."""

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        cuda.init()
        self._context = PrimaryContext(cuda)
        with self._context.current():
            self._stream: Any = cuda.Stream()
            self._events = [cuda.Event(cuda.event_flags.DISABLE_TIMING) for _ in range(SLOTS)]
        self._pinned: list[dict[str, Any]] = [{} for _ in range(SLOTS)]
        self._device: list[dict[str, Any]] = [{} for _ in range(SLOTS)]

    def start(self, slot: int, feeds: Feeds) -> None:
        """See `Uploader`. Raises BuildError when the GPU has no memory for two batches, or fails."""
        with self._translate_errors(), self._context.current():
            for name, values in feeds.items():
                pinned, device = self._allocate_buffers(slot, name, values)
                # An earlier copy out of this buffer ended before `finish` gave its addresses away.
                np.copyto(pinned, values)
                self._cuda.memcpy_htod_async(device, pinned, self._stream)
            self._events[slot].record(self._stream)

    def finish(self, slot: int) -> Mapping[str, int]:
        """See `Uploader`. Raises BuildError when the GPU fails."""
        with self._translate_errors(), self._context.current():
            self._events[slot].synchronize()
        return {name: int(buffer) for name, buffer in self._device[slot].items()}

    def close(self) -> None:
        """See `Uploader`."""
        if self._stream is None:
            return
        with self._context.current():
            self._stream.synchronize()  # no copy may still read or write what is freed now
            for buffers in self._device:
                for buffer in buffers.values():
                    buffer.free()
            self._device = [{} for _ in range(SLOTS)]
            self._pinned = [{} for _ in range(SLOTS)]
            self._events, self._stream = [], None
        self._context.release()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """pycuda's errors as ours, so that the build falls back."""
        try:
            yield
        except self._cuda.Error as error:
            raise BuildError(
                f"The GPU failed while a calibration batch was uploaded: {error}.",
                "Try again; if it comes back, leave --recalibrate out.",
            ) from error

    def _allocate_buffers(self, slot: int, name: str, values: Array) -> tuple[Any, Any]:
        if name not in self._device[slot]:
            try:
                self._pinned[slot][name] = self._cuda.pagelocked_empty(values.shape, values.dtype)
                self._device[slot][name] = self._cuda.mem_alloc(values.nbytes)
            except self._cuda.MemoryError as error:
                raise BuildError(
                    f"The GPU has no {values.nbytes} bytes left for a calibration batch of {name!r}.",
                    "Close other programs on the GPU, calibrate with a smaller batch, or leave --recalibrate out.",
                ) from error
        return self._pinned[slot][name], self._device[slot][name]


class BatchFeed:
    """Hands out batches one after the other; while TensorRT works on one, the next is uploaded.

    All batches get the size of the first. A shorter last one is filled up with its own samples over again: TensorRT
    calibrates on a fixed size, and would otherwise read what is left of the batch before.
    """

    def __init__(self, batches: Iterable[Feeds], uploader: Uploader) -> None:
        self._batches = iter(batches)
        self._uploader = uploader
        self._slot = 0
        self.done = 0
        """Batches handed out."""
        try:
            first = next(self._batches, None)
            if first is None:
                raise BadInputError("there is not one batch to calibrate on", "give a folder with faces")
            self.shapes: dict[str, tuple[int, ...]] = {name: values.shape for name, values in first.items()}
            self.batch_size = next((shape[0] for shape in self.shapes.values() if shape), 1)
            self._pending = self._start(first)
        except BaseException:
            uploader.close()
            raise

    def __next__(self) -> Mapping[str, int]:
        """The addresses of the next batch's inputs; valid until the next call."""
        if not self._pending:
            raise StopIteration
        slot = self._slot
        addresses = self._uploader.finish(slot)
        self.done += 1
        self._slot = 1 - slot
        # TensorRT asked for this batch, so it is done with the one before, whose slot is filled now.
        following = next(self._batches, None)
        self._pending = following is not None and self._start(following)
        return addresses

    def __iter__(self) -> Iterator[Mapping[str, int]]:
        return self

    def close(self) -> None:
        """Free the GPU's memory."""
        self._uploader.close()

    def _start(self, feeds: Feeds) -> bool:
        self._uploader.start(self._slot, {name: self._fill_up(name, values) for name, values in feeds.items()})
        return True

    def _fill_up(self, name: str, values: Array) -> Array:
        values = np.ascontiguousarray(values)
        return values if values.shape == self.shapes[name] else np.resize(values, self.shapes[name])
