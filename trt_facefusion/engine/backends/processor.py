"""The processor of this machine, as far as engines for a CPU depend on it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

# From the widest to the narrowest: the flag that Linux shows, and the name of the set. Libraries choose their 8-bit
# kernels by these.
_SETS = (
    ("amx_int8", "amx"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx_vnni", "avx2_vnni"),
    ("avx512bw", "avx512"),
    ("avx2", "avx2"),
    ("sse4_1", "sse4_1"),
    ("i8mm", "i8mm"),
    ("asimddp", "asimd_dotprod"),
    ("asimd", "asimd"),
)
_ADDS_IN_16_BITS = frozenset({"avx512", "avx2", "sse4_1"})
_FLAGS = ("flags", "Features")
"""What Linux calls the line on x86, and on Arm."""


def name_processor() -> str:
    """The processor as Linux names it, else as Python does."""
    names = [line.partition(":")[2].strip() for line in _read(_CPUINFO) if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def name_instructions(cpuinfo: Path = _CPUINFO) -> str:
    """The widest set of vector instructions of this processor, like ``avx512_vnni``; its kind where nothing tells."""
    flags = next((line.partition(":")[2].split() for line in _read(cpuinfo) if line.startswith(_FLAGS)), [])
    return next((name for flag, name in _SETS if flag in flags), platform.machine().lower())


def lacks_byte_products(instructions: str) -> bool:
    """Whether no instruction of the set multiplies 8-bit integers and adds the products in 32 bits.

    Then they are added in 16 bits first, two at a time, and such sums saturate.
    """
    return instructions in _ADDS_IN_16_BITS


def _read(cpuinfo: Path) -> list[str]:
    try:
        return cpuinfo.read_text().splitlines()
    except OSError:
        return []
