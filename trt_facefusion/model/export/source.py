"""Where the model comes from: what every source tells, and that of an ONNX file.

A source tells its digest without loading the network, so that an engine that is up to date is found in no time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias

import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export.onnx_file import list_external_files, list_external_tensors, load_model
from trt_facefusion.storage.files import digest_regular
from trt_facefusion.types import Array, Feeds

Original: TypeAlias = Path | Callable[[Feeds], Sequence[Array]]
"""What was handed in, as it runs untouched: a file for onnxruntime, or a function that gives the outputs in order."""


class ModelSource(Protocol):
    """A model that can be identified cheaply and loaded when needed."""

    @property
    def name(self) -> str:
        """A short name, fit for a folder."""

    def digest(self) -> str:
        """SHA-256 of everything that decides what the model is."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of how it was loaded; asked for after ``load``."""

    def load(self, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
        """The model as ONNX; ``shapes`` of the inputs without batch axis."""

    def original(self) -> Original:
        """What was handed in, for reference pictures; a file only after ``load`` has checked it."""

    def check(self, outputs: Mapping[str, Array], feeds: Feeds) -> None:
        """Raise `ModelError` if the ONNX ``outputs`` for real ``feeds`` differ from the original network's."""


def hash_parts(*parts: bytes | Path) -> str:
    """Digest of the digests of ``parts``: bytes, or the content of files."""
    return _join_digests(
        _hash_file(part) if isinstance(part, Path) else hashlib.sha256(part).digest() for part in parts
    )


def _join_digests(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _hash_file(path: Path) -> bytes:
    return digest_regular(path, "model", ModelError)


@dataclass(frozen=True)
class OnnxSource:
    """A user's ONNX file."""

    path: Path
    notes: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The checked model as it is in the file."""
        return load_model(self.path)

    @cached_property
    def _outside(self) -> dict[bytes, list[onnx.TensorProto]]:
        """Digest of the file -> its external tensors: it is not parsed again to see that nothing has changed."""
        return {}

    def digest(self) -> str:
        """Digest of the file and of the external weights it names."""
        own = _hash_file(self.path)
        if own not in self._outside:
            self._outside.clear()
            self._outside[own] = list_external_tensors(self.path)
        return _join_digests([own, *map(_hash_file, list_external_files(self._outside[own], self.path))])

    def load(self, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
        """The checked model, which is not kept here any longer; ``shapes`` is not needed."""
        del shapes
        return self.__dict__.pop("model", None) or load_model(self.path)

    def original(self) -> Original:
        """The file itself: by its path, so that external weights of any size work."""
        return self.path

    def check(self, outputs: Mapping[str, Array], feeds: Feeds) -> None:
        """Nothing to compare with: the file is the original."""
