"""Triton's own configuration messages, and their text.

Of the package tritonclient only the file with the messages is loaded: its client would bring gRPC along. What is
written keeps to fields that Triton 2.51 (24.10) knows.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from trt_facefusion.errors import BackendUnavailableError, pip_install

_NAME = "trt_facefusion_triton_messages"
_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "uint16": "TYPE_UINT16",
    "int16": "TYPE_INT16",
    "uint32": "TYPE_UINT32",
    "int32": "TYPE_INT32",
    "uint64": "TYPE_UINT64",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bytes": "TYPE_STRING",
}
"""Triton's types by NumPy's names; ``bytes`` is an encoded photo."""


@cache
def load_messages() -> ModuleType:
    """The module with the class ``ModelConfig``.

    Raises:
        BackendUnavailableError: tritonclient is not installed.
    """
    package = importlib.util.find_spec("tritonclient")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    file = next((path for folder in folders if (path := Path(folder) / "grpc" / "model_config_pb2.py").is_file()), None)
    spec = importlib.util.spec_from_file_location(_NAME, file) if file is not None else None
    if spec is None or spec.loader is None:
        raise BackendUnavailableError(
            "Triton's configurations are written by its own messages, and tritonclient is not installed.",
            pip_install("triton"),
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    return module


def make_config(**fields: Any) -> Any:
    """A ``ModelConfig`` with ``fields``; a name that it does not have is an error of ours."""
    return load_messages().ModelConfig(**fields)


def find_type(dtype: str) -> int:
    """Triton's number of a type by NumPy's name (``bytes`` for encoded photos)."""
    number: int = load_messages().DataType.Value(_TYPES[dtype])
    return number


def write_config(config: Any) -> bytes:
    """A configuration as text, as Triton reads it from config.pbtxt."""
    from google.protobuf import text_format

    return text_format.MessageToString(config).encode()


def read_config(text: bytes) -> Any:
    """What `write_config` wrote. Raises google.protobuf.text_format.ParseError with the line of what is wrong."""
    from google.protobuf import text_format

    return text_format.Parse(text.decode(), make_config())
