"""What this machine has to run engines with."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.base import Backend
from trt_facefusion.engine.backends.pins import name_platform
from trt_facefusion.engine.runtime.device import cuda_driver
from trt_facefusion.engine.store.fit import Machine
from trt_facefusion.errors import BackendUnavailableError, BadInputError


def ask_machine(device: int = 0, backends: Iterable[Backend] | None = None) -> Machine:
    """This machine with the GPU of that number, and the libraries of those backends that are installed.

    No context is made on the GPU.

    Args:
        device: number of the GPU.
        backends: whose libraries to look for; None for all whose engines need a GPU.

    Raises:
        BackendUnavailableError: no pycuda, no driver or no GPU.
        BadInputError: there is no GPU of that number.
    """
    driver = cuda_driver()
    if not 0 <= device < driver.Device.count():
        raise BadInputError(f"There is no GPU {device}.", f"Take one below {driver.Device.count()}.")
    gpu = driver.Device(device)
    major, minor = gpu.compute_capability()
    if backends is None:
        backends = [backend for backend in registry.BACKENDS if backend.capabilities.needs_gpu]
    return Machine(
        platform=name_platform(),
        device=str(gpu.name()),
        compute_capability=(int(major), int(minor)),
        driver=int(driver.get_driver_version()),
        libraries=_find_versions(backends),
    )


def ask_machine_if_any(device: int = 0) -> Machine:
    """Like `ask_machine`, without a GPU where there is none to ask; libraries are not looked for then."""
    try:
        return ask_machine(device)
    except BackendUnavailableError:
        return Machine(name_platform())


def _find_versions(backends: Iterable[Backend]) -> dict[str, str]:
    versions = {}
    for backend in backends:
        try:
            versions[backend.name] = str(importlib.import_module(backend.library.module).__version__)
        except (ImportError, OSError):  # also a library of its own that is missing
            continue
    return versions
