"""What a person is told of this machine's GPUs, libraries and space."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping

from trt_facefusion.doctor.driver import Driver, Gpu
from trt_facefusion.doctor.findings import ADVICE, PROBLEM, WARNING, Finding
from trt_facefusion.doctor.packages import Packages
from trt_facefusion.engine.backends.gpu_support import find_gpu_support
from trt_facefusion.engine.backends.registry import find_backend
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.errors import BackendUnavailableError, pip_install

ENOUGH_GPU_BYTES = 2 << 30
"""Free GPU memory below which a build is warned of: weights, activations and scratch memory of a small generator."""
ENOUGH_DISK_BYTES = 2 << 30
"""Free disk below which a build is warned of: three engines of a generator of a hundred million parameters."""
ENOUGH_MEMORY_BYTES = 4 << 30

_TENSORRT = TensorRt.library.module
_WHEELS = (12, 13)
"""CUDA major versions that TensorRT has wheels for."""


def advise_on_sources(*, quick: bool) -> Iterable[Finding]:
    """The bundled generator, which a build takes by default, is a torch network; ``quick`` does not load torch."""
    for name in ("torch", "onnxscript"):
        try:
            if quick and importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(f"No module named {name!r}")
            if not quick:
                importlib.import_module(name)
        except Exception as error:
            yield Finding(
                PROBLEM,
                f"{name} cannot be loaded ({error}): only models that are ONNX already can be built (--onnx)",
                (pip_install("torch"),),
            )


def advise_on_gpus(driver: Driver, packages: Packages, backend: str, target: str) -> Iterable[Finding]:
    """What stands between a machine's GPUs and engines; ``backend`` and ``target`` are what is built by default."""
    if not driver.gpus:
        if packages[_TENSORRT] is not None:
            yield Finding(WARNING, f"TensorRT is installed, but cannot be used: {driver.problem}")
        return
    first = driver.gpus[0]
    if len({gpu.compute_capability for gpu in driver.gpus}) > 1:
        yield Finding(
            ADVICE,
            f"there are GPUs of several kinds; engines are built for number 0, {first.name}",
            ("export CUDA_VISIBLE_DEVICES=1  # builds for number 1",),
        )
    yield from _find_missing(driver, packages)
    if first.free_bytes is None:
        yield Finding(PROBLEM, f"{first.name} has no memory left for a CUDA context", ("nvidia-smi",))
    elif first.free_bytes < ENOUGH_GPU_BYTES:
        left = f"{first.free_bytes / 2**20:,.0f} of {first.total_bytes / 2**20:,.0f} MiB"
        yield Finding(WARNING, f"{first.name} has {left} free: a build may run out of memory", ("nvidia-smi",))
    yield from _judge_age(first, backend, target)


def _find_missing(driver: Driver, packages: Packages) -> Iterable[Finding]:
    gpu = driver.gpus[0]
    support = find_gpu_support(gpu.compute_capability)
    if packages[_TENSORRT] is None and (support is None or support.last_tensorrt is None):
        wheel = f"tensorrt-cu{min(max(driver.cuda[0], _WHEELS[0]), _WHEELS[-1])}" if driver.cuda else _TENSORRT
        yield Finding(
            WARNING,
            f"TensorRT is not installed, so it builds no engines for {gpu.name}",
            (f"pip install '{wheel}>=10.9,<12' pycuda polygraphy",),
        )
    elif packages[_TENSORRT] is not None:
        try:
            TensorRt().version()
        except BackendUnavailableError as error:
            yield Finding(PROBLEM, error.message, (f"# {error.remedy}",))
    if packages["pycuda"] is None:
        yield Finding(
            WARNING,
            "pycuda is not installed: engines cannot be run, and TensorRT cannot be told which GPU is here",
            ("pip install pycuda  # compiles; needs a C++ compiler and CUDA's headers",),
        )
        return
    try:
        importlib.import_module("pycuda.driver")
    except Exception as error:
        again = "pip install --force-reinstall --no-cache-dir --no-deps pycuda"
        yield Finding(PROBLEM, f"pycuda cannot be loaded: {error}", (again,))


def _judge_age(gpu: Gpu, backend: str, target: str) -> Iterable[Finding]:
    support = find_gpu_support(gpu.compute_capability)
    if support is None:
        cc = "{}.{}".format(*gpu.compute_capability)
        yield Finding(WARNING, f"{gpu.name} has compute capability {cc}, which this version does not know")
    elif support.last_tensorrt is not None:
        last = "{}.{}".format(*support.last_tensorrt)
        selected = find_backend(backend)
        for_this_gpu = selected is not None and selected.capabilities.needs_device
        yield Finding(
            PROBLEM if for_this_gpu else WARNING,
            f"the last TensorRT for {gpu.name} ({support.architecture}) was {last}, older than those that this version "
            "builds with: engines are made for other GPUs, or for the CPU",
            ("# add to your build: --backend onnxruntime",),
        )
    elif target not in {gpu.target, ""}:
        yield Finding(WARNING, f"by default engines are built for {target}, and not for {gpu.name} ({gpu.target})")


def advise_on_space(memory: int | None, disk: Mapping[str, int | None]) -> Iterable[Finding]:
    """Whether ``memory`` and the ``disk`` of each folder, in bytes, are enough; None is unknown, or not writable."""
    if memory is not None and memory < ENOUGH_MEMORY_BYTES:
        yield Finding(WARNING, f"{memory / 2**30:.1f} GiB of memory are available: large generators need more")
    for folder, free in disk.items():
        if free is None:
            yield Finding(PROBLEM, f"{folder} cannot be written to", (f"mkdir -p {folder} && chmod u+w {folder}",))
        elif free < ENOUGH_DISK_BYTES:
            yield Finding(WARNING, f"{folder} has {free / 2**30:.2f} GiB of disk left")
