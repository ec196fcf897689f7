"""A GPU that is none, and an uploader into host memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trt_facefusion.engine.backends.device import Device
from trt_facefusion.types import Feeds

A10G = Device("NVIDIA A10G", (8, 6), 13000, 20_000_000_000, 24_000_000_000)


class HostUploader:
    """Keeps batches in host memory; copies only when the batch is waited for, as a late copy would."""

    def __init__(self) -> None:
        self.slots: list[dict[str, np.ndarray]] = [{}, {}]
        self.waiting: list[Feeds] = [{}, {}]
        self.closed = False

    def start(self, slot: int, feeds: Feeds) -> None:
        self.waiting[slot] = {name: values.copy() for name, values in feeds.items()}
        for name, values in feeds.items():
            self.slots[slot].setdefault(name, np.full(values.shape, np.nan, values.dtype))

    def finish(self, slot: int) -> Mapping[str, int]:
        for name, values in self.waiting[slot].items():
            np.copyto(self.slots[slot][name], values)
        return {name: values.ctypes.data for name, values in self.slots[slot].items()}

    def close(self) -> None:
        self.closed = True
