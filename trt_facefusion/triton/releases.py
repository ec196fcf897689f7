"""What is known of Triton's containers, and whether an engine fits one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.version import Version

from trt_facefusion.dropin.graph import RUNTIME_OF_OPSET
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import BadInputError
from trt_facefusion.storage.documents import decode, read_bytes
from trt_facefusion.storage.plain_yaml import parse_yaml

RELEASE = "26.08"
"""The newest release of which anything is known."""
_REGISTRY = "nvcr.io/nvidia/tritonserver"
_FIRST = "24.10"
"""The oldest whose fields are kept to: Triton 2.51, which the repository is tested in."""


@dataclass(frozen=True)
class _Releases:
    onnxruntime: Mapping[str, str]


@cache
def list_onnxruntimes() -> Mapping[str, str]:
    """The version of onnxruntime by release."""
    return decode(
        _Releases, parse_yaml(read_bytes(Path(__file__).with_name("releases.yaml")).decode()), "releases"
    ).onnxruntime


def name_image(release: str) -> str:
    """The container of a release like ``26.08``.

    Raises:
        BadInputError: it is no release, or older than what is tested.
    """
    if not re.fullmatch(r"\d\d\.(0[1-9]|1[0-2])", release):
        raise BadInputError(f"{release!r} is no release of Triton", f"name one like {RELEASE} (year.month)")
    if release < _FIRST:
        raise BadInputError(f"Triton {release} is older than what is tested", f"take {_FIRST} or later")
    return f"{_REGISTRY}:{release}-py3"


def list_tensorrt_doubts(manifest: Manifest, release: str) -> Iterator[str]:
    """What may keep the TensorRT of ``release`` from loading an engine; texts for people."""
    built, image = manifest.backend_version, name_image(release)
    show = f"docker run --rm {image} sh -c 'ls /usr/lib/*/libnvinfer.so.*'"
    if manifest.pins.version_compatible:
        yield (
            f"the engine needs TensorRT {built} or a later {built.split('.')[0]}.x in Triton, which is started with "
            f"version-compatible=true; see which it has: {show}"
        )
        return
    yield (
        f"warning: the engine needs TensorRT {built} in Triton, no other, and which one {image} has is not known here. "
        f"See: {show}. The TensorRT container of the same release (nvcr.io/nvidia/tensorrt) builds engines that fit"
    )


def list_onnx_doubts(manifest: Manifest, release: str, opset: int) -> Iterator[str]:
    """What may keep the onnxruntime of ``release`` from loading an engine of ``opset``; texts for people."""
    proven = manifest.backend_version
    runtime, needed = list_onnxruntimes().get(release), RUNTIME_OF_OPSET.get(opset)
    if runtime is None:
        yield f"which onnxruntime Triton {release} has is not known; the engine was proven with {proven}"
    elif needed is None or Version(runtime) < Version(needed):
        later = needed or "a later one"
        yield f"warning: Triton {release} has onnxruntime {runtime}, and the graph's opset {opset} needs {later}"
    elif Version(runtime).release[:2] != Version(proven).release[:2]:
        yield f"Triton {release} has onnxruntime {runtime}; the engine was proven with {proven}"
