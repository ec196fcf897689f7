"""What a profile was measured on and with: the processor, and versions of libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from trt_facefusion.engine.backends.processor import name_processor


def describe_processor(threads: int | None) -> str:
    """The processor and how many threads it may use; None is all of them."""
    count = "all threads" if threads is None else f"{threads} thread{'s' * (threads > 1)}"
    return f"{name_processor()}, {count}"


def read_versions() -> dict[str, str]:
    """Versions of what was measured with, of what is installed."""
    versions = {}
    for name in ("trt-facefusion", "onnxruntime", "openvino", "tensorrt", "pycuda", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
