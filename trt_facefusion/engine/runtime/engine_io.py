"""What an engine takes and gives, in the words of this project, and how that is read from one of TensorRT.

Works on an ``ICudaEngine`` of TensorRT 10 and 11 alike; nothing is imported from either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trt_facefusion.engine.runtime.base import check_feeds
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.types import Feeds, TensorSpec

# By the name of the enumerator: the numbers behind the names differ between versions.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class EngineIO:
    """Inputs and outputs of an engine (of TensorRT: under one optimisation profile), and the ranges of its inputs."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    smallest: dict[str, Shape]
    largest: dict[str, Shape]

    def check(self, feeds: Feeds) -> None:
        """Hold ``feeds`` against the inputs and the profile's range.

        Raises:
            BadInputError: the message says what is wrong, the remedy what the engine takes.
        """
        check_feeds(feeds, self.inputs)
        for name, tensor in feeds.items():
            low, high = self.smallest[name], self.largest[name]
            if any(not least <= size <= most for least, size, most in zip(low, tensor.shape, high, strict=True)):
                raise BadInputError(
                    f"The input {name!r} has the shape {list(tensor.shape)}, outside of what the engine was built for.",
                    f"Stay between {list(low)} and {list(high)}, or build the engine again for this shape.",
                )


def describe(engine: Any, profile: int = 0) -> EngineIO:
    """The inputs and outputs of ``engine`` under the optimisation profile of that number.

    A dynamic axis 0 is called ``N`` everywhere; other dynamic axes have names of their own.

    Raises:
        BadInputError: the engine has no such profile.
        ModelError: an input or output that cannot be fed from numpy: not linear, not on the device, or of a type that
            numpy does not have.
    """
    count = engine.num_optimization_profiles
    if not 0 <= profile < count:
        raise BadInputError(f"The engine has no optimisation profile {profile}.", f"Take one below {count}.")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    specs = {name: _read_spec(engine, name, profile) for name in names}
    inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
    ranges = {name: _read_range(engine, name, profile) for name in inputs}
    return EngineIO(
        inputs=tuple(specs[name] for name in inputs),
        outputs=tuple(specs[name] for name in names if name not in inputs),
        smallest={name: low for name, (low, _) in ranges.items()},
        largest={name: high for name, (_, high) in ranges.items()},
    )


def _read_spec(engine: Any, name: str, profile: int) -> TensorSpec:
    dtype, layout = engine.get_tensor_dtype(name).name, engine.get_tensor_format(name, profile).name
    if dtype not in _DTYPES or layout != "LINEAR" or engine.get_tensor_location(name).name != "DEVICE":
        raise ModelError(
            f"The engine's tensor {name!r} ({dtype}, {layout}) cannot be exchanged with numpy.",
            "Build the engine with linear inputs and outputs of FP32, FP16, INT8 or an integer type.",
        )
    shape = tuple(
        size if size >= 0 else "N" if axis == 0 else f"{name}_{axis}"
        for axis, size in enumerate(engine.get_tensor_shape(name))
    )
    return TensorSpec(name, shape, _DTYPES[dtype])


def _read_range(engine: Any, name: str, profile: int) -> tuple[Shape, Shape]:
    fixed = tuple(engine.get_tensor_shape(name))
    if -1 not in fixed:
        return fixed, fixed
    low, _, high = engine.get_tensor_profile_shape(name, profile)
    return tuple(low), tuple(high)
