"""What is published of GPUs: bandwidth, dense rates by type, the cost of a launch; each figure with its source.

The figures are data (`gpus.yaml`), read and checked when one is first asked for. A target like ``sm86`` names no GPU
but a compute capability: the first GPU of the table that has it stands for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from trt_facefusion.engine.backends.pins import parse_target
from trt_facefusion.errors import BadInputError
from trt_facefusion.storage.documents import DocumentError, decode, read_bytes
from trt_facefusion.storage.plain_yaml import parse_yaml

TABLE = Path(__file__).parent / "gpus.yaml"
RATES = ("fp32", "tf32", "fp16", "fp16_acc", "int8")
"""Types of arithmetic. ``fp16`` sums in FP32, ``fp16_acc`` in FP16; ``tf32`` is FP32 rounded for tensor cores."""

_Figure = tuple[float, str]


@dataclass(frozen=True)
class GpuModel:
    """One GPU as its maker describes it.

    Attributes:
        name: what it is called on the command line, like ``a10g``.
        title: its name in full.
        devices: what the driver calls it.
        compute_capability: like (8, 6).
        bandwidth_gb_s: of its memory, 10^9 bytes per second.
        tera_ops: dense rate of each of `RATES`, 10^12 operations per second; a multiplication and an addition are two.
        launch_us: what one kernel costs beside its work, microseconds.
        sources: where each of these figures stands, by the names in `gpus.yaml`.
    """

    name: str
    title: str
    devices: tuple[str, ...]
    compute_capability: tuple[int, int]
    bandwidth_gb_s: float
    tera_ops: Mapping[str, float]
    launch_us: float
    sources: Mapping[str, str]

    @property
    def target(self) -> str:
        """The target of engines for it, like ``sm86``."""
        return "sm{}{}".format(*self.compute_capability)


@dataclass(frozen=True)
class _GpuRow:
    title: str
    devices: tuple[str, ...]
    compute_capability: tuple[int, int]
    bandwidth_gb_s: _Figure
    fp32: _Figure
    tf32: _Figure
    fp16: _Figure
    fp16_acc: _Figure
    int8: _Figure
    launch_us: _Figure

    def list_figures(self) -> Iterator[tuple[str, _Figure]]:
        own = (f.name for f in fields(self) if f.name not in {"title", "devices", "compute_capability"})
        return ((name, getattr(self, name)) for name in own)


@dataclass(frozen=True)
class _Table:
    sources: Mapping[str, str]
    gpus: Mapping[str, _GpuRow]


def read_table(text: str) -> Mapping[str, GpuModel]:
    """The GPUs of a document like `gpus.yaml`, by name, in its order.

    Raises:
        DocumentError: a field is missing or unknown, a figure is not above 0, or its source is not listed.
    """
    table = decode(_Table, parse_yaml(text), "gpus")
    for name, row in table.gpus.items():
        for figure, (amount, source) in row.list_figures():
            if not amount > 0:
                raise DocumentError(f"gpus.{name}.{figure} is {amount:g}, not above 0")
            if source not in table.sources:
                raise DocumentError(f"gpus.{name}.{figure} has the source {source!r:.40}, which is not listed")
    return {name: _make_gpu(name, row, table.sources) for name, row in table.gpus.items()}


def _make_gpu(name: str, row: _GpuRow, sources: Mapping[str, str]) -> GpuModel:
    figures = dict(row.list_figures())
    rates = {rate: figures[rate][0] for rate in RATES}
    own = {figure: sources[source] for figure, (_, source) in figures.items()}
    bandwidth, launch = row.bandwidth_gb_s[0], row.launch_us[0]
    return GpuModel(name, row.title, row.devices, row.compute_capability, bandwidth, rates, launch, own)


@cache
def list_gpus() -> Mapping[str, GpuModel]:
    """All GPUs of the table, by name."""
    return read_table(read_bytes(TABLE).decode())


def get_gpu(name: str) -> GpuModel:
    """The GPU called ``name``; upper case, blanks and hyphens do not matter.

    Raises:
        BadInputError: the table has none of that name.
    """
    gpus = {_simplify(listed): gpu for listed, gpu in list_gpus().items()}
    gpu = gpus.get(_simplify(name))
    if gpu is None:
        raise BadInputError(f"nothing is known of a GPU {name!r:.60}", f"use one of {', '.join(list_gpus())}")
    return gpu


def find_gpu_of_target(target: str) -> GpuModel | None:
    """The GPU that stands for a target like ``sm86``; None for another processor, or where the table has none."""
    try:
        capability = parse_target(target)
    except ValueError:
        return None
    return next((gpu for gpu in list_gpus().values() if gpu.compute_capability == capability), None)


def find_gpu_of_device(device: str) -> GpuModel | None:
    """The GPU that the driver calls ``device``, like ``NVIDIA A10G``; None where the table has none of that name."""
    return next((gpu for gpu in list_gpus().values() if device in gpu.devices), None)


def choose_gpu(name: str | None, target: str, device: str | None = None) -> GpuModel | None:
    """The GPU to predict for: the one called ``name``, else the ``device`` that an engine was built on, else the one
    that stands for its ``target``; None where the table has none of these.

    Raises:
        BadInputError: the table has no GPU called ``name``.
    """
    if name is not None:
        return get_gpu(name)
    built_on = None if device is None else find_gpu_of_device(device)
    return built_on or find_gpu_of_target(target)


def _simplify(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())
