"""What to type to install what is missing: commands that work as they are printed.

This package is on no index, so `pip install trt-facefusion[gpu]` cannot work; the packages of an extra are, and are
named with the versions that were tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from packaging.requirements import Requirement

_TESTED = {
    "torch": ("torch>=2.13,<2.14", "onnxscript>=0.7,<0.8"),
    "rtx": ("tensorrt-rtx>=1.7,<1.8",),
    "gpu": ("tensorrt>=10.9,<12", "pycuda>=2026.1", "cuda-bindings>=12.9,<14"),
}
"""The extras of pyproject.toml, for where this package runs without being installed; a test holds the two together."""


def requirements(extra: str) -> Sequence[str]:
    """The requirements of an extra, as pip takes them."""
    try:
        known = metadata.requires("trt-facefusion") or []
    except metadata.PackageNotFoundError:
        known = []
    wanted = [Requirement(text) for text in known]
    found = [r for r in wanted if r.marker is not None and f'extra == "{extra}"' in str(r.marker).replace("'", '"')]
    return [f"{r.name}{r.specifier}" for r in found] or _TESTED[extra]


def pip_install(extra: str, *options: str) -> str:
    """The command that installs the packages of an extra into this environment."""
    return " ".join(("pip install", *options, *(f"'{requirement}'" for requirement in requirements(extra))))
