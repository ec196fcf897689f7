"""What this machine has to run engines with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.base import Backend
from trt_facefusion.engine.backends.chips import name_own_chip
from trt_facefusion.engine.backends.pins import name_platform
from trt_facefusion.engine.backends.processor import name_instructions
from trt_facefusion.engine.runtime.device import cuda_driver
from trt_facefusion.engine.store.fit import Machine
from trt_facefusion.errors import BackendUnavailableError, BadInputError


def ask_machine(device: int = 0, backends: Iterable[Backend] | None = None) -> Machine:
    """This machine with the GPU of that number, and the libraries of those backends that are installed.

    No context is made on the GPU.

    Args:
        device: number of the GPU.
        backends: whose libraries to look for; None for all.

    Raises:
        BackendUnavailableError: no pycuda, no driver or no GPU.
        BadInputError: there is no GPU of that number.
    """
    driver = cuda_driver()
    if not 0 <= device < driver.Device.count():
        raise BadInputError(f"There is no GPU {device}.", f"Take one below {driver.Device.count()}.")
    gpu = driver.Device(device)
    major, minor = gpu.compute_capability()
    backends = registry.BACKENDS if backends is None else backends
    return Machine(
        platform=name_platform(),
        device=str(gpu.name()),
        compute_capability=(int(major), int(minor)),
        driver=int(driver.get_driver_version()),
        libraries=Libraries(backends),
        instructions=name_instructions(),
    )


def ask_machine_if_any(device: int = 0) -> Machine:
    """Like `ask_machine`, without a GPU where there is none to ask."""
    try:
        return ask_machine(device)
    except BackendUnavailableError:
        return ask_processor(registry.BACKENDS)


def ask_processor(backends: Iterable[Backend]) -> Machine:
    """This machine without its GPU, and the libraries of those backends that are installed."""
    chip = name_own_chip()
    return Machine(name_platform(), libraries=Libraries(backends), instructions=name_instructions(), chip=chip)


class Libraries(Mapping[str, str]):
    """Versions of the libraries of those backends that are installed; each is loaded when it is first asked for."""

    def __init__(self, backends: Iterable[Backend]) -> None:
        self._backends = {backend.name: backend for backend in backends}
        self._versions: dict[str, str | None] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._versions:
            self._versions[name] = _find_version(self._backends[name])
        version = self._versions[name]
        if version is None:
            raise KeyError(name)
        return version

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._backends if self.get(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _find_version(backend: Backend) -> str | None:
    try:
        return backend.version()
    except BackendUnavailableError:  # also where a library of its own is missing
        return None
