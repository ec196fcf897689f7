"""What an engine was built on and for: the machine that loads it must be of that kind."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field

from trt_facefusion.engine.backends.device import Device
from trt_facefusion.engine.backends.processor import name_instructions
from trt_facefusion.storage.documents import LATER


@dataclass(frozen=True)
class Pins:
    """What an engine needs of the machine that runs it, beside the version of its library.

    Attributes:
        compute_capability: of the GPU, like (8, 6); None where the build could not ask (or needs no GPU).
        device: the GPU that it was built and timed on; None where it was built ahead of time.
        driver: the highest CUDA version that the driver knew at the build, like 13000; None where there was none.
        platform: system and processor, like ``linux-x86_64``; None for an engine that runs on any.
        instructions: the vector instructions of the CPU that it was built for, like ``avx512_vnni``; None for an
            engine that runs with any, or where they could not be told.
        hardware_compatibility: ``none``, ``ampere_plus`` or ``same_compute_capability``.
        version_compatible: it also loads in later minor versions of its library.
        chip: Qualcomm's chip that it was compiled for, like ``sm8550``; None for an engine of another kind.
        htp_arch: the architecture of that chip's neural processor, like 73.
        sdk: the version of the compiler inside of its library, where that has one of its own.
    """

    compute_capability: tuple[int, int] | None = None
    device: str | None = None
    driver: int | None = None
    platform: str | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    instructions: str | None = field(default=None, metadata=LATER)
    chip: str | None = field(default=None, metadata=LATER)
    htp_arch: int | None = field(default=None, metadata=LATER)
    sdk: str | None = field(default=None, metadata=LATER)

    @classmethod
    def of_this_machine(cls, device: Device | None, hardware_compatibility: str, version_compatible: bool) -> Pins:
        """The pins of an engine that is built for ``device``, the GPU of this machine."""
        return cls(
            compute_capability=device.compute_capability if device is not None else None,
            device=device.name if device is not None else None,
            driver=device.driver if device is not None else None,
            platform=name_platform(),
            hardware_compatibility=hardware_compatibility,
            version_compatible=version_compatible,
        )

    @classmethod
    def of_this_processor(cls) -> Pins:
        """The pins of an engine that is compiled for the processor of this machine."""
        return cls(platform=name_platform(), instructions=name_instructions())

    @classmethod
    def ahead_of_time(cls, target: str) -> Pins:
        """The pins of an engine that is built here for a GPU elsewhere."""
        return cls(compute_capability=parse_target(target), platform=name_platform())


def name_platform() -> str:
    """System and processor of this machine, like ``linux-x86_64``."""
    return f"{platform.system()}-{platform.machine()}".lower()


def parse_target(target: str) -> tuple[int, int]:
    """The compute capability of a target like ``sm86`` or ``sm120``. Raises ValueError for any other text."""
    digits = re.fullmatch(r"sm(\d+)(\d)", target)
    if digits is None:
        raise ValueError(f"{target!r} names no compute capability")
    return int(digits[1]), int(digits[2])


def format_cuda_version(driver: int) -> str:
    """CUDA's version number in words: 12080 is 12.8."""
    return f"{driver // 1000}.{driver % 1000 // 10}"
