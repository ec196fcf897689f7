"""Installed packages that matter for engines, and how they clash."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement

from trt_facefusion.doctor.findings import PROBLEM, WARNING, Finding
from trt_facefusion.engine.backends import registry

_FOR_COMMANDS = ("metrics", "video", "provenance", "serve")
"""Extras that belong to no backend."""
_FOR_GPUS = ("pycuda", "cuda-bindings")
_ALWAYS = ("onnx", "torch", "polygraphy", "numpy", "opencv-python", "opencv-python-headless")
_CUDA_WHEEL = re.compile(r"^(.+)-cu(\d+)(?:-bindings|-libs)?$")

# Distributions that put their files over each other: the last one that was installed wins, piece by piece.
_SAME_FOLDER = (
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")),
    (
        "opencv-python-headless",
        ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ),
)


def list_shown() -> tuple[str, ...]:
    """The distributions that `trt-ff doctor` shows: those of the backends, and what they and this project need."""
    of_gpus = [name for b in registry.BACKENDS if b.capabilities.needs_gpu for name in b.library.distributions]
    of_cpus = [name for b in registry.BACKENDS if not b.capabilities.needs_gpu for name in b.library.distributions]
    return tuple(dict.fromkeys((*of_gpus, *_FOR_GPUS, *of_cpus, *_ALWAYS)))


def _list_cuda_wheels() -> dict[str, bool]:
    """Distributions that have a wheel for each CUDA version, and whether a build on this machine needs its GPU."""
    return {
        name: backend.capabilities.needs_device
        for backend in registry.BACKENDS
        if backend.library.cuda_wheels
        for name in backend.library.distributions
    }


@dataclass(frozen=True)
class Packages:
    """Versions by canonical name, of everything that is installed."""

    versions: Mapping[str, str]
    requirements: tuple[str, ...] = ()
    """What trt-facefusion asks for, as its own metadata says."""

    @classmethod
    def installed(cls) -> Packages:
        """Those of this environment."""
        versions: dict[str, str] = {}
        for distribution in metadata.distributions():
            name = distribution.metadata["Name"]
            if name:  # a folder that a broken uninstall left has none
                versions.setdefault(normalise_name(name), distribution.version)
        try:
            requirements = metadata.requires("trt-facefusion") or []
        except metadata.PackageNotFoundError:
            requirements = []
        return cls(versions, tuple(requirements))

    def with_modules(self, versions: Mapping[str, str]) -> Packages:
        """These, and backends that can be imported though no metadata tell of them, as in some images."""
        return Packages({**{n: v for n, v in versions.items() if self[n] is None}, **self.versions}, self.requirements)

    def __getitem__(self, name: str) -> str | None:
        """The version of ``name``; of TensorRT's wheels for one CUDA version, too."""
        version = self.versions.get(name)
        if version is None and name in _list_cuda_wheels():
            return next((self.versions[wheel] for wheel in self._find_wheels(name)), None)
        return version

    def cuda_majors(self, name: str) -> tuple[int, ...]:
        """The CUDA major versions that the wheels of ``tensorrt`` or ``tensorrt-rtx`` were made for."""
        return tuple(sorted(set(self._find_wheels(name).values())))

    def _find_wheels(self, name: str) -> dict[str, int]:
        matches = {installed: _CUDA_WHEEL.match(installed) for installed in self.versions}
        return {installed: int(m[2]) for installed, m in matches.items() if m and m[1] == name}


def normalise_name(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_clashes(packages: Packages, driver_cuda: tuple[int, int] | None) -> tuple[Finding, ...]:
    """Everything that does not fit: with each other, with the driver (its CUDA version), with the tested ranges."""
    return (
        *_find_overlaid(packages),
        *_find_wrong_cuda(packages, driver_cuda),
        *_find_old_pycuda(packages),
        *_find_untested(packages),
    )


def _find_overlaid(packages: Packages) -> Iterable[Finding]:
    for keep, names in _SAME_FOLDER:
        both = [name for name in names if name in packages.versions]
        if len(both) > 1:
            yield Finding(
                WARNING,
                f"{' and '.join(both)} are both installed and overwrite each other's files",
                (f"pip uninstall -y {' '.join(both)}", f"pip install {keep}"),
            )
    majors = packages.cuda_majors("tensorrt")
    if len(majors) > 1:
        wheels = [f"tensorrt-cu{major}" for major in majors]
        yield Finding(
            PROBLEM,
            f"TensorRT is installed for CUDA {' and '.join(map(str, majors))} at once; both use the module `tensorrt`",
            (f"pip uninstall -y tensorrt {' '.join(wheels)}", f"pip install {wheels[-1]}"),
        )


def _find_wrong_cuda(packages: Packages, driver_cuda: tuple[int, int] | None) -> Iterable[Finding]:
    if driver_cuda is None:
        return
    known_to_driver = f"the driver knows CUDA {driver_cuda[0]}.{driver_cuda[1]}"
    for name, needs_gpu in _list_cuda_wheels().items():
        majors = packages.cuda_majors(name)
        if majors and min(majors) > driver_cuda[0]:
            yield Finding(
                PROBLEM if needs_gpu else WARNING,
                f"{name} {packages[name]} was made for CUDA {min(majors)}, but {known_to_driver} only",
                (f"pip install {name}-cu{driver_cuda[0]}  # or update the driver",),
            )
    local = re.search(r"\+cu(\d+)\d$", packages["torch"] or "")
    if local and int(local[1]) > driver_cuda[0]:
        yield Finding(WARNING, f"torch {packages['torch']} was made for CUDA {local[1]}, but {known_to_driver} only")


def _find_old_pycuda(packages: Packages) -> Iterable[Finding]:
    numpy, pycuda = packages["numpy"], packages["pycuda"]
    if numpy and pycuda and _parse_major(numpy) >= 2 and _parse_major(pycuda) < 2024:
        yield Finding(
            PROBLEM,
            f"pycuda {pycuda} was made for numpy 1, and numpy {numpy} is installed",
            ("pip install --upgrade --no-cache-dir pycuda",),
        )


def _find_untested(packages: Packages) -> Iterable[Finding]:
    """Versions outside of the ranges that pyproject.toml names as tested, and required packages that are missing."""
    for text in packages.requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        extra = _find_extra(requirement)
        if extra is None:
            continue
        version = packages[normalise_name(requirement.name)]
        if version is None and not extra:
            yield Finding(
                PROBLEM, f"{requirement.name} is not installed", (f"pip install '{_format_requirement(requirement)}'",)
            )
        elif version is not None and not requirement.specifier.contains(version, prereleases=True):
            yield Finding(
                WARNING,
                f"{requirement.name} {version} is outside of the tested range {requirement.specifier}",
                (f"pip install '{_format_requirement(requirement)}'",),
            )


def _find_extra(requirement: Requirement) -> str | None:
    """The first extra under which a requirement applies on this Python; "" for always, None for never."""
    for extra in ("", "torch", *_FOR_COMMANDS, *(backend.library.extra for backend in registry.BACKENDS)):
        environment: dict[str, str] = {**{k: str(v) for k, v in default_environment().items()}, "extra": extra}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            return extra
    return None


def _format_requirement(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _parse_major(version: str) -> int:
    digits = re.match(r"\d+", version)
    return int(digits[0]) if digits else 0
