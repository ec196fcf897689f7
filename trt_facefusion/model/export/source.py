"""Where the model comes from: an ONNX file, a torch checkpoint, or the bundled reference generator.

A source tells its digest without loading the network, so that an engine that is up to date is found in no time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export.onnx_file import list_external_files, list_external_tensors, load_model
from trt_facefusion.model.export.torch_export import (
    TOLERANCE,
    check_forward,
    export_onnx,
    measure_difference,
    run_torch,
)
from trt_facefusion.model.generators import (
    REFERENCE_WEIGHTS,
    build_from_factory,
    load_reference,
    load_weights,
    read_weights,
)
from trt_facefusion.model.generators.local_code import collect_local_code, find_unseen_modules
from trt_facefusion.model.generators.torch_here import require_torch
from trt_facefusion.model.generators.user_code import run_user_code
from trt_facefusion.model.generators.weight_sets import WeightSet
from trt_facefusion.storage.files import digest_regular
from trt_facefusion.types import Array, Feeds

if TYPE_CHECKING:
    from torch import nn


Original: TypeAlias = Path | Callable[[Feeds], Sequence[Array]]
"""What was handed in, as it runs untouched: a file for onnxruntime, or a function that gives the outputs in order."""

_EXPORT_IT = "mend the network's code, or export it yourself and pass --onnx"


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


def _hash_parts(*parts: bytes | Path) -> str:
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


class _TorchSource:
    """Common to both torch sources: export once, compare with the network."""

    net: nn.Module
    outputs: ClassVar[tuple[str, ...]] = ()

    def load(self, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
        """The exported network."""
        require_torch()
        with run_user_code("the network", _EXPORT_IT, ModelError):
            check_forward(self.net, shapes)
            return export_onnx(self.net, shapes, self.outputs)
        raise AssertionError  # user_code swallows nothing

    def original(self) -> Original:
        """The network, run by torch."""
        return lambda feeds: run_torch(self.net, feeds)

    def check(self, outputs: Mapping[str, Array], feeds: Feeds) -> None:
        """Compare torch with the exported graph on real inputs."""
        with run_user_code("the network", _EXPORT_IT, ModelError):
            difference = measure_difference(self.net, outputs, feeds)
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
    weights_key: str | None = None
    """Which of several sets of weights in the file (see `choose_weights`)."""

    @property
    def name(self) -> str:
        """The checkpoint's stem."""
        return self.path.stem

    @cached_property
    def _weights(self) -> WeightSet:
        return read_weights(self.path, self.weights_key)

    @cached_property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The network with the checkpoint's weights."""
        weights = self._weights  # first: it takes no code to tell that a file cannot be used
        net = build_from_factory(self.factory)
        load_weights(net, weights.tensors, self.path)
        return net

    @property
    def notes(self) -> tuple[str, ...]:
        """Which weights were loaded, and what of the factory's code counts for no digest; loads the network."""
        self.net  # noqa: B018
        w = self._weights
        what = f"{len(w.tensors)} tensors" + (f" of {w.where}" if w.where else "") + (" (EMA)" if w.averaged else "")
        others = f"; there are also {', '.join(w.others)} (--weights-key)" if w.others else ""
        missed = find_unseen_modules(self._code, Path.cwd())
        told = f"weights: {what} from {self.path}{others}"
        if not missed:
            return (told,)
        return told, (
            f"warning: {', '.join(missed)} was loaded in a way that cannot be seen in the code of {self.factory}: "
            "after a change there, build with --force"
        )

    @cached_property
    def _code(self) -> dict[str, bytes]:
        return collect_local_code(self.factory.partition(":")[0], Path.cwd())

    def digest(self) -> str:
        """Digest of the checkpoint, the weights' key, the factory's name and all code that its import brings in."""
        module = self.factory.partition(":")[0]
        code = collect_local_code(module, Path.cwd())  # anew: it may have changed during the build
        first = code.pop(f"{module.replace('.', '/')}.py", b"")
        more = [part for label in sorted(code) for part in (label.encode(), code[label])]
        key = [] if self.weights_key is None else [b"weights key", self.weights_key.encode()]
        return _hash_parts(self.path, self.factory.encode(), first, *more, *key)


@dataclass(frozen=True)
class ReferenceSource(_TorchSource):
    """The bundled reference generator."""

    weights: Path = REFERENCE_WEIGHTS
    notes: ClassVar[tuple[str, ...]] = ()
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
        return _hash_parts(self.weights, Path(__file__).parents[1] / "generators" / "reference.py")


def identify_origin(source: ModelSource) -> str:
    """Tells where a model was read from, as a digest: a file that is exported again keeps it, namesakes differ."""
    if not isinstance(source, OnnxSource | CheckpointSource):
        return "bundled"
    network = f"{source.factory} {source.weights_key or ''}" if isinstance(source, CheckpointSource) else ""
    place = source.path.parent.resolve() / source.path.name  # not the file's own link: a hub's leads to another version
    return _hash_parts(os.fsencode(place), network.encode())[:16]
