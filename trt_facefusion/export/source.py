"""Where the model comes from: an ONNX file, a torch checkpoint, or the bundled reference generator.

A source tells its digest without loading the network, so that an engine that is up to date is found in no time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.export.onnx_file import external_files, load_model
from trt_facefusion.export.torch_export import TOLERANCE, export_onnx, largest_difference, run_torch
from trt_facefusion.generators import REFERENCE_WEIGHTS, build_from_factory, load_reference, load_weights, read_state
from trt_facefusion.generators.checkpoint import require_torch
from trt_facefusion.types import Array, Feeds

if TYPE_CHECKING:
    from torch import nn


Original: TypeAlias = Path | Callable[[Feeds], Sequence[Array]]
"""What was handed in, as it runs untouched: a file for onnxruntime, or a function that gives the outputs in order."""


class ModelSource(Protocol):
    """A model that can be identified cheaply and loaded when needed."""

    @property
    def name(self) -> str:
        """A short name, fit for a folder."""

    def digest(self) -> str:
        """SHA-256 of everything that decides what the model is."""

    def load(self, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
        """The model as ONNX; ``shapes`` of the inputs without batch axis."""

    def original(self) -> Original:
        """What was handed in, for reference pictures; a file only after ``load`` has checked it."""

    def check(self, outputs: Mapping[str, Array], feeds: Feeds) -> None:
        """Raise `ModelError` if the ONNX ``outputs`` for real ``feeds`` differ from the original network's."""


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check the path and the file's rights") from error


@dataclass(frozen=True)
class OnnxSource:
    """A user's ONNX file."""

    path: Path

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The checked model as it is in the file."""
        return load_model(self.path)

    def digest(self) -> str:
        """Digest of the file and of the external weights it names."""
        return _sha256(_read(self.path), *(_read(path) for path in external_files(self.path)))

    def load(self, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
        """The checked model; ``shapes`` is not needed."""
        del shapes
        return self.model

    def original(self) -> Original:
        """The file itself: by its path, so that external weights of any size work."""
        return self.path

    def check(self, outputs: Mapping[str, Array], feeds: Feeds) -> None:
        """Nothing to compare with: the file is the original."""


class _TorchSource:
    """Common to both torch sources: export once, compare with the network."""

    net: nn.Module
    outputs: ClassVar[tuple[str, ...]] = ()

    def load(self, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
        """The exported network."""
        require_torch()
        return export_onnx(self.net, shapes, self.outputs)

    def original(self) -> Original:
        """The network, run by torch."""
        return lambda feeds: run_torch(self.net, feeds)

    def check(self, outputs: Mapping[str, Array], feeds: Feeds) -> None:
        """Compare torch with the exported graph on real inputs."""
        difference = largest_difference(self.net, outputs, feeds)
        if not difference <= TOLERANCE:
            raise ModelError(
                f"the exported graph differs from torch by {difference:.2g} of the largest output (limit {TOLERANCE})",
                "does the network use random numbers, or behave differently in training? export it yourself, --onnx",
            )


@dataclass(frozen=True)
class CheckpointSource(_TorchSource):
    """A user's checkpoint and the factory of its network."""

    path: Path
    factory: str

    @property
    def name(self) -> str:
        """The checkpoint's stem."""
        return self.path.stem

    @cached_property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The network with the checkpoint's weights."""
        net = build_from_factory(self.factory)
        load_weights(net, read_state(self.path), self.path)
        return net

    def digest(self) -> str:
        """Digest of the checkpoint, of the factory's name and, where it can be found, of its source file."""
        relative = Path(*self.factory.partition(":")[0].split(".")).with_suffix(".py")
        code = _read(relative) if relative.is_file() else b""
        return _sha256(_read(self.path), self.factory.encode(), code)


@dataclass(frozen=True)
class ReferenceSource(_TorchSource):
    """The bundled reference generator."""

    weights: Path = REFERENCE_WEIGHTS
    outputs: ClassVar[tuple[str, ...]] = ("output",)

    @property
    def name(self) -> str:
        """Always ``reference``."""
        return "reference"

    @cached_property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The trained network."""
        return load_reference(self.weights)

    def digest(self) -> str:
        """Digest of the weights and of the code that uses them."""
        return _sha256(_read(self.weights), _read(Path(__file__).parents[1] / "generators" / "reference.py"))


def safe_name(text: str) -> str:
    """``text`` reduced to letters, digits, dot, dash and underscore; never empty, never starting with a dot."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "model"
