"""Whether an engine runs on a machine: its manifest's pins against what is there, before a library sees a byte of it.

The rules are the libraries' own: an engine loads only with the version of the library, the compute capability (on a
CPU: the instructions) and the platform that it was built for, unless it was built to be compatible with more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trt_facefusion.engine.backends.base import Backend
from trt_facefusion.engine.backends.pins import format_cuda_version
from trt_facefusion.engine.backends.registry import find_backend
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import StoreError

_AMPERE = (8, 0)


@dataclass(frozen=True)
class Machine:
    """Where an engine is to run. The GPU's fields are None where there is no GPU that can be asked.

    ``libraries`` are the backends that are installed, with their versions; ``driver`` is the highest CUDA version
    that the driver knows, like 13000; ``instructions`` are the vector instructions of the processor (see `Pins`);
    ``chip`` is the chip of a phone, None on a machine that has none of Qualcomm's.
    """

    platform: str
    device: str | None = None
    compute_capability: tuple[int, int] | None = None
    driver: int | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    instructions: str | None = None
    chip: str | None = None

    @property
    def target(self) -> str | None:
        """The target that engines for its GPU have."""
        return None if self.compute_capability is None else "sm{}{}".format(*self.compute_capability)


def list_misfits(manifest: Manifest, machine: Machine) -> tuple[str, ...]:
    """Why the engine cannot run on ``machine``; empty where it can. What the manifest does not pin fits."""
    backend = find_backend(manifest.backend)
    pinned = manifest.pins.instructions or manifest.pins.chip
    if backend is None or not (backend.capabilities.needs_gpu or pinned):
        return ()
    return tuple(_list_misfits(manifest, backend, machine))


def list_differences(manifest: Manifest, machine: Machine) -> tuple[str, ...]:
    """What is not as it was at the build, of an engine that fits: it runs, but was timed under other conditions."""
    pins = manifest.pins
    changes = []
    if pins.device and machine.device and pins.device != machine.device:
        changes.append(f"it was built and timed on another GPU ({pins.device}; here is {machine.device})")
    if pins.driver and machine.driver and pins.driver != machine.driver:
        changes.append(f"it was built under {_name_driver(pins.driver)}; here is {_name_driver(machine.driver)}")
    return tuple(changes)


def require_fit(manifest: Manifest, folder: Path, machine: Machine) -> None:
    """Refuse an engine that ``machine`` cannot run.

    Raises:
        StoreError: it does not fit; the message says what differs, the remedy is the command that builds one that does.
    """
    reasons = list_misfits(manifest, machine)
    if reasons:
        raise StoreError(
            f"{folder} cannot run on this machine: {'; '.join(reasons)}.", suggest_rebuild(manifest, machine)
        )


def suggest_rebuild(manifest: Manifest, machine: Machine) -> str:
    """What to do about an engine that does not fit: the command that builds it for ``machine``."""
    target, backend = machine.target, find_backend(manifest.backend)
    if manifest.pins.chip is not None:
        return f"Build one for this machine: {manifest.rebuild_command(machine.chip)}"
    unsuited = target is not None and backend is not None and not _builds_for(backend, target)
    command = manifest.rebuild_command(target, "auto" if unsuited else manifest.backend)
    return f"Build one for this machine: {command}"


def _builds_for(backend: Backend, target: str) -> bool:
    """Whether ``backend`` builds for ``target`` on the machine that has this GPU."""
    return backend.capabilities.needs_device or target in backend.targets()


def _list_misfits(manifest: Manifest, backend: Backend, machine: Machine) -> Iterator[str]:
    pins, product = manifest.pins, backend.library.product
    if pins.platform is not None and pins.platform != machine.platform:
        yield f"it was built on {pins.platform}, and this is {machine.platform}"
    installed = machine.libraries.get(manifest.backend)
    if installed is None:
        yield f"it needs {product} {manifest.backend_version}, and none is installed"
    elif not _version_fits(manifest.backend_version, installed, pins.version_compatible):
        needs = f"{manifest.backend_version} or a later {_parse_numbers(manifest.backend_version)[0]}.x"
        yield (
            f"it was built with {product} {manifest.backend_version}"
            f"{f' (compatible with {needs})' if pins.version_compatible else ''}, and {installed} is installed"
        )
    if pins.chip is not None:
        yield from _list_chip_misfits(pins.chip, backend, machine)
    elif not backend.capabilities.needs_gpu:
        yield from _list_processor_misfits(pins.instructions, machine.instructions)
    elif machine.compute_capability is None:
        yield "it needs a GPU, and there is none that pycuda can ask"
    elif not _gpu_fits(pins.compute_capability, machine.compute_capability, pins.hardware_compatibility):
        yield _explain_gpu(manifest, machine)
    if pins.driver and machine.driver and machine.driver // 1000 < pins.driver // 1000:
        yield f"it was built under {_name_driver(pins.driver)}, and here is {_name_driver(machine.driver)}"


def _list_chip_misfits(built: str, backend: Backend, machine: Machine) -> Iterator[str]:
    """On a phone, another chip; elsewhere one that the simulator does not know."""
    if machine.chip is not None and machine.chip != built:
        yield f"it was compiled for the chip {built}, and this one is {machine.chip}"
    elif built not in backend.targets():
        yield f"it was compiled for the chip {built}, which {backend.name} does not know here"


def _list_processor_misfits(built: str | None, here: str | None) -> Iterator[str]:
    if built is not None and built != here:
        yield f"it was compiled for a processor with {built}, and this one has {here or 'other instructions'}"


def _version_fits(built: str, installed: str, compatible: bool) -> bool:
    if not compatible:
        return built == installed
    was, now = _parse_numbers(built), _parse_numbers(installed)
    return was[:1] == now[:1] and was <= now


def _parse_numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)] or [0]


def _gpu_fits(built: tuple[int, int] | None, here: tuple[int, int], compatibility: str) -> bool:
    if compatibility == "ampere_plus":
        return here >= _AMPERE
    return built is None or built == here


def _explain_gpu(manifest: Manifest, machine: Machine) -> str:
    pins = manifest.pins
    assert machine.compute_capability is not None
    here = f"{_format_capability(machine.compute_capability)} ({machine.device or 'unknown'})"
    if pins.hardware_compatibility == "ampere_plus" or pins.compute_capability is None:
        return f"it was built for Ampere and later GPUs, and this GPU has the compute capability {here}"
    device = f" ({pins.device})" if pins.device else ""
    built = f"{_format_capability(pins.compute_capability)}{device}"
    return f"it was built for the compute capability {built}, and this GPU has {here}"


def _format_capability(capability: tuple[int, int]) -> str:
    return "{}.{}".format(*capability)


def _name_driver(version: int) -> str:
    return f"a driver for CUDA {format_cuda_version(version)}"
