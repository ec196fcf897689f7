"""Both halves of the twin as one module, for processes in which everything runs: build, calibrate, load, infer."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

from twin import builder, runtime


def read_device(address: int, size: int) -> bytes:
    """``size`` bytes behind a pointer of the emulated device."""
    backing = runtime._backing(address, size)
    if not backing:
        raise ValueError(f"{address:#x} is no device memory of {size} bytes")
    return ctypes.string_at(backing, size)


class _Engine(runtime.ICudaEngine):
    """An engine that runs and can be inspected."""

    _header: dict[str, Any]

    def get_engine_stat(self, stat: Any) -> int:
        return 1024

    def create_engine_inspector(self) -> builder.EngineInspector:
        return builder.EngineInspector(self._header["layers"])


class _Runtime(runtime.Runtime):
    engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        engine = super().deserialize_cuda_engine(serialized_engine)
        if engine is not None:
            engine.__class__ = _Engine
            engine._header, _ = builder.read_plan(bytes(serialized_engine))  # type: ignore[attr-defined]
        return engine


def make(version: str, **options: Any) -> ModuleType:
    """A module for ``sys.modules["tensorrt"]``."""
    module, _ = builder.make_twin(version, **{"read_memory": read_device, **options})
    known = vars(module)
    classes = {name: made for name, made in vars(runtime).items() if isinstance(made, type) and name[0].isupper()}
    for name, made in classes.items():
        if name not in known or name in {"ILogger"}:
            setattr(module, name, made)
    module.Runtime = type("Runtime", (_Runtime,), {"version": version})  # type: ignore[attr-defined]
    return module
