"""Installed packages that matter for engines, and how they clash."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement

from trt_facefusion.doctor.findings import PROBLEM, WARNING, Finding

NAMES = (
    "tensorrt",
    "tensorrt-rtx",
    "pycuda",
    "cuda-bindings",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx",
    "torch",
    "polygraphy",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
)
"""What `trt-ff doctor` shows."""

_EXTRAS = ("", "torch", "rtx", "gpu")
_CUDA_WHEEL = re.compile(r"^(tensorrt|tensorrt-rtx)-cu(\d+)(?:-bindings|-libs)?$")

# Distributions that put their files over each other: the last one that was installed wins, piece by piece.
_SAME_FOLDER = (
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")),
    (
        "opencv-python-headless",
        ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ),
)


@dataclass(frozen=True)
class Packages:
    """Versions by canonical name, of everything that is installed."""

    versions: Mapping[str, str]
    requirements: tuple[str, ...] = ()
    """What trt-facefusion asks for, as its own metadata says."""

    @classmethod
    def installed(cls) -> Packages:
        """Those of this environment."""
        found: dict[str, str] = {}
        for made in metadata.distributions():
            name = made.metadata["Name"]
            if name:  # a folder that a broken uninstall left has none
                found.setdefault(canonical(name), made.version)
        try:
            wanted = metadata.requires("trt-facefusion") or []
        except metadata.PackageNotFoundError:
            wanted = []
        return cls(found, tuple(wanted))

    def with_modules(self, versions: Mapping[str, str]) -> Packages:
        """These, and engine makers that can be imported though no metadata tell of them, as in some images."""
        return Packages({**{n: v for n, v in versions.items() if self[n] is None}, **self.versions}, self.requirements)

    def __getitem__(self, name: str) -> str | None:
        """The version of ``name``; of TensorRT's wheels for one CUDA version, too."""
        found = self.versions.get(name)
        if found is None and name in {"tensorrt", "tensorrt-rtx"}:
            return next((self.versions[wheel] for wheel in self._cuda_wheels(name)), None)
        return found

    def cuda_majors(self, name: str) -> tuple[int, ...]:
        """The CUDA major versions that the wheels of ``tensorrt`` or ``tensorrt-rtx`` were made for."""
        return tuple(sorted(set(self._cuda_wheels(name).values())))

    def _cuda_wheels(self, name: str) -> dict[str, int]:
        matches = {installed: _CUDA_WHEEL.match(installed) for installed in self.versions}
        return {installed: int(m[2]) for installed, m in matches.items() if m and m[1] == name}


def canonical(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def findings(packages: Packages, driver_cuda: tuple[int, int] | None) -> tuple[Finding, ...]:
    """Everything that does not fit: with each other, with the driver (its CUDA version), with the tested ranges."""
    return (
        *_overlaid(packages),
        *_wrong_cuda(packages, driver_cuda),
        *_old_pycuda(packages),
        *_outside(packages),
    )


def _overlaid(packages: Packages) -> Iterable[Finding]:
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


def _wrong_cuda(packages: Packages, driver_cuda: tuple[int, int] | None) -> Iterable[Finding]:
    if driver_cuda is None:
        return
    known = f"the driver knows CUDA {driver_cuda[0]}.{driver_cuda[1]}"
    for name in ("tensorrt", "tensorrt-rtx"):
        majors = packages.cuda_majors(name)
        if majors and min(majors) > driver_cuda[0]:
            yield Finding(
                PROBLEM if name == "tensorrt" else WARNING,
                f"{name} {packages[name]} was made for CUDA {min(majors)}, but {known} only",
                (f"pip install {name}-cu{driver_cuda[0]}  # or update the driver",),
            )
    local = re.search(r"\+cu(\d+)\d$", packages["torch"] or "")
    if local and int(local[1]) > driver_cuda[0]:
        yield Finding(WARNING, f"torch {packages['torch']} was made for CUDA {local[1]}, but {known} only")


def _old_pycuda(packages: Packages) -> Iterable[Finding]:
    numpy, pycuda = packages["numpy"], packages["pycuda"]
    if numpy and pycuda and _major(numpy) >= 2 and _major(pycuda) < 2024:
        yield Finding(
            PROBLEM,
            f"pycuda {pycuda} was made for numpy 1, and numpy {numpy} is installed",
            ("pip install --upgrade --no-cache-dir pycuda",),
        )


def _outside(packages: Packages) -> Iterable[Finding]:
    """Versions outside of the ranges that pyproject.toml names as tested, and required packages that are missing."""
    for text in packages.requirements:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        extra = _extra_of(wanted)
        if extra is None:
            continue
        version = packages[canonical(wanted.name)]
        if version is None and not extra:
            yield Finding(PROBLEM, f"{wanted.name} is not installed", (f"pip install '{_plain(wanted)}'",))
        elif version is not None and not wanted.specifier.contains(version, prereleases=True):
            yield Finding(
                WARNING,
                f"{wanted.name} {version} is outside of the tested range {wanted.specifier}",
                (f"pip install '{_plain(wanted)}'",),
            )


def _extra_of(wanted: Requirement) -> str | None:
    """The first extra under which a requirement applies on this Python; "" for always, None for never."""
    for extra in _EXTRAS:
        environment: dict[str, str] = {**{k: str(v) for k, v in default_environment().items()}, "extra": extra}
        if wanted.marker is None or wanted.marker.evaluate(environment):
            return extra
    return None


def _plain(wanted: Requirement) -> str:
    return f"{wanted.name}{wanted.specifier}"


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0
